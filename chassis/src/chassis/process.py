"""Runs the loops of a process until it is told to stop, drains, and ends; dies loudly when a loop dies."""

import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event, Thread
from time import monotonic

from chassis import log

Loop = Callable[[Event], None]
DRAIN_SECONDS = 25.0


@dataclass
class Process:
    """What runs, what must hold for it to be ready, and what to do at the end."""

    loops: Mapping[str, Loop]
    checks: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    closers: list[Callable[[], None]] = field(default_factory=list)
    stop: Event = field(default_factory=Event)
    dead: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Why the process is not ready; empty when it is."""
        failed = [name for name, check in self.checks.items() if not _holds(check)]
        stopping = ["stopping"] if self.stop.is_set() else []
        return [*failed, *stopping, *(f"{name} died" for name in self.dead)]

    def run(self) -> int:
        """Runs until SIGTERM, SIGINT or the death of a loop; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop.set())
        threads = [Thread(target=self._guard, args=one, name=one[0], daemon=True) for one in self.loops.items()]
        for thread in threads:
            thread.start()
        log.info("started", loops=", ".join(self.loops))
        while not self.stop.wait(1.0):
            pass
        self._drain(threads)
        return 1 if self.dead else 0

    def _guard(self, name: str, loop: Loop) -> None:
        try:
            loop(self.stop)
        except BaseException as error:
            log.error("loop died", loop=name, error=error)
            self.dead.append(name)
        else:
            if not self.stop.is_set():
                log.error("loop ended by itself", loop=name)
                self.dead.append(name)
        finally:
            self.stop.set()

    def _drain(self, threads: list[Thread]) -> None:
        log.info("stopping")
        ends = monotonic() + DRAIN_SECONDS
        for thread in threads:
            thread.join(max(0.0, ends - monotonic()))
        for close in self.closers:
            close()
        late = [thread.name for thread in threads if thread.is_alive()]
        log.info("stopped", unfinished=", ".join(late))
        sys.stderr.flush()


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception as error:
        log.warning("readiness check failed", error=error)
        return False
