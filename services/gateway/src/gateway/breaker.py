"""Stops asking a service that does not answer, so that neither its callers nor the service itself wait in vain."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

WINDOW_SECONDS, LEAST_CALLS, SHARE = 10.0, 20, 0.5
OPEN_SECONDS = 5.0


@dataclass
class Breaker:
    """Opens when half of at least twenty calls of the last ten seconds failed; lets one call through after five
    seconds, and all when that one succeeds."""

    now: Callable[[], float] = monotonic
    _calls: deque[tuple[float, bool]] = field(default_factory=deque)
    _failures: int = 0
    _opened: float | None = None
    _lock: Lock = field(default_factory=Lock)

    def admits(self) -> bool:
        """Whether a call may be made now."""
        with self._lock:
            if self._opened is None:
                return True
            if self.now() - self._opened < OPEN_SECONDS:
                return False
            self._opened = self.now()  # this one tries; the others wait for what becomes of it
            return True

    @property
    def open(self) -> bool:
        """Whether calls are refused, but for one that tries."""
        return self._opened is not None

    def note(self, *, failed: bool) -> bool:
        """Counts a call; returns whether the breaker opened or closed by it."""
        with self._lock:
            before = self.open
            if before and not failed:
                self._opened, self._failures = None, 0
                self._calls.clear()
            self._count(failed)
            if not self.open and len(self._calls) >= LEAST_CALLS and self._failures >= SHARE * len(self._calls):
                self._opened = self.now()
            return self.open != before

    def _count(self, failed: bool) -> None:
        now = self.now()
        self._calls.append((now, failed))
        self._failures += failed
        while self._calls[0][0] < now - WINDOW_SECONDS:
            self._failures -= self._calls.popleft()[1]
