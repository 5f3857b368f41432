"""Starts a service for a chaos run: `python -m chaos.started <role>`, with a clock that can be moved, or with a bug.

CHAOS_MODULE is the service's own module. CHAOS_CLOCK names a file with the seconds by which this process's clock is
wrong, read twice a second. CHAOS_BUG names one of the deliberate breaks in `chaos.bugs`.
"""

import os
import runpy
import sys
import threading
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

LOOK_SECONDS = 0.5


class _Datetime(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class Moved(datetime, metaclass=_Datetime):
    """The wall clock, off by `offset`. The monotonic clock stays right, as when an administrator sets the time."""

    offset = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        """The wrong time."""
        return datetime.now(tz) + cls.offset


def move_clock(path: Path) -> None:
    """Puts the wrong clock where chassis and token library have imported the right one, and follows the file."""
    import jwt.api_jwt

    import chassis.service  # noqa: F401  it brings the rest of the chassis along

    ours = [module for name, module in list(sys.modules.items()) if name.startswith("chassis.")]
    for module in (*ours, jwt.api_jwt):
        if getattr(module, "datetime", None) is datetime:
            module.datetime = Moved  # type: ignore[attr-defined]
    _start_following(path)
    os.register_at_fork(after_in_child=lambda: _start_following(path))  # the gateway serves in a child


def _start_following(path: Path) -> None:
    threading.Thread(target=_follow, args=(path,), name="clock", daemon=True).start()


def _follow(path: Path) -> None:
    while True:
        Moved.offset = timedelta(seconds=int(path.read_text() or 0))
        time.sleep(LOOK_SECONDS)


def main() -> None:
    """Prepares this process, then runs the service in it."""
    if clock := os.environ.get("CHAOS_CLOCK"):
        move_clock(Path(clock))
    if bug := os.environ.get("CHAOS_BUG"):
        from chaos import bugs

        bugs.BUGS[bug].plant()
    runpy.run_module(os.environ["CHAOS_MODULE"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
