"""Processes with a guard: each has its log in its starter's directory and is gone when its starter is gone."""

import contextlib
import fcntl
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from typing import IO

from pika.exceptions import AMQPError
from pymongo.errors import PyMongoError

HOST = "127.0.0.1"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
Check = Callable[[], object]  # raises until a process is ready

# Below the range (32768 up) from which the kernel takes the ports of outgoing connections: there, a client could get
# the port between the moment it is found free and the moment its server binds it. A count never offers one twice.
_PORTS = itertools.count(os.getpid() * 10)

# Every process has a guard, which reads a pipe that only the starter holds open. When the starter is gone (by kill -9,
# too) the guard ends the process group it shares: politely, and after five seconds by force. PR_SET_PDEATHSIG would
# reach one process only, fire when the starting *thread* ends, and need a fork hook, which is unsafe beside threads.
_GUARDED = """exec 3<&0 </dev/null
(   trap '' TERM
    read -r _ <&3
    kill -s TERM -- -$$
    for half_second in 1 2 3 4 5 6 7 8 9 10; do kill -s 0 $$ || break; sleep 0.5; done
    kill -s KILL -- -$$
) 2>/dev/null &
exec "$@" 3<&-"""


@dataclass(frozen=True)
class Process:
    """One started process, leader of a process group of its own."""

    name: str
    popen: Popen[bytes]
    log: Path
    log_start: int
    lifeline: IO[bytes]
    check: Check

    @property
    def alive(self) -> bool:
        """Whether the process itself (not merely a child of it) still runs."""
        return self.popen.poll() is None

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the process group, unless it has ended (and its number may be another's by now)."""
        if not self.lifeline.closed:
            with contextlib.suppress(ProcessLookupError):  # somebody else ended the whole group
                os.killpg(self.popen.pid, signum)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Send SIGTERM to the process group, and SIGKILL to what is left after its leader's end or the timeout."""
        stop_all([self], timeout=timeout)

    def kill(self) -> None:
        """End the process group at once, as a crash would."""
        with self.popen:  # which closes the lifeline and waits
            self.signal(signal.SIGKILL)

    def tail(self) -> str:
        """Return the last lines that this process (not an earlier one with the same log) has written."""
        written = self.log.read_bytes()[self.log_start :].decode(errors="replace")
        return "\n".join(written.splitlines()[-20:]) or "(nothing)"


def free_port() -> int:
    """Return a TCP port that nothing listens on, a different one at every call."""
    ports = (20_000 + number % 10_000 for number in _PORTS)
    return next(port for port in ports if is_free(port))


def is_free(port: int) -> bool:
    """Say whether nothing listens on a TCP port of this machine."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def stop_all(processes: Sequence[Process], *, timeout: float = STOP_TIMEOUT) -> None:
    """Stop several processes, the last first; all are asked to end before any is waited for."""
    for process in reversed(processes):
        process.signal(signal.SIGTERM)
    for process in reversed(processes):
        with contextlib.suppress(TimeoutExpired):  # what follows is right in either case
            process.popen.wait(timeout)
        process.kill()


def await_ready(processes: Sequence[Process], *, timeout: float = START_TIMEOUT) -> None:
    """Wait until every process is ready; when one is not, stop them all and say why, quoting its log."""
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as failure:
        failure.callback(stop_all, processes)
        for process in processes:
            _await(process.name, process.check, process=process, deadline=deadline)
        failure.pop_all()


def _await(what: str, check: Check, *, deadline: float, process: Process | None = None) -> None:
    while process is None or process.alive:
        try:
            check()
            return
        except (OSError, PyMongoError, AMQPError) as error:
            if time.monotonic() > deadline:
                log = f"; its log ends:\n{process.tail()}" if process else ""
                raise RuntimeError(f"{what} is not ready in time: {error!r}{log}") from error
        time.sleep(0.05)
    raise RuntimeError(f"{what} exited with status {process.popen.returncode}; its log ends:\n{process.tail()}")


def launch(name: str, argv: Sequence[str], *, env: dict[str, str], directory: Path, check: Check) -> Process:
    """Start a process with its log in `directory`; `check` raises until it is ready."""
    directory.mkdir(parents=True, exist_ok=True)
    log, guarded = directory.resolve() / f"{name}.log", ["/bin/sh", "-c", _GUARDED, name, *argv]
    with log.open("ab") as output:
        # The open log is the lock: whatever can still write to it holds it. So a restart waits for the last process of
        # a killed predecessor, and two starters cannot use one data directory at a time.
        lock = partial(fcntl.flock, output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _await(f"{log}, held by another process,", lock, deadline=time.monotonic() + STOP_TIMEOUT)
        start, streams = output.seek(0, os.SEEK_END), {"stdin": PIPE, "stdout": output, "stderr": STDOUT}
        popen = Popen(guarded, cwd=directory, env=env, start_new_session=True, **streams)  # type: ignore[call-overload]
        return Process(name, popen, log, start, popen.stdin, check)


def environment(**settings: str) -> dict[str, str]:
    """What every started process is given, and these settings."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8", **settings}
