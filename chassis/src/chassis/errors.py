"""The handful of ways an operation can fail; every one reaches the caller with its reason, none with a stack trace."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """One thing wrong with a request: the field's path (`customer.phones[0].number`) and the reason in words."""

    field: str
    reason: str


class Fault(Exception):
    """A failure the caller is told about. `reason` is a stable code, `message` is for people."""

    reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason
        self.retry_after = retry_after
        self.violations: tuple[Violation, ...] = ()


class Invalid(Fault):
    """The request cannot be carried out as it stands; `violations` name every bad field."""

    reason = "INVALID"

    def __init__(self, violations: Iterable[Violation]) -> None:
        found = tuple(violations)
        super().__init__("; ".join(f"{one.field}: {one.reason}" if one.field else one.reason for one in found))
        self.violations = found


class Unauthenticated(Fault):
    """Nobody we know is calling."""

    reason = "UNAUTHENTICATED"


class Denied(Fault):
    """The caller is known and may not do this."""

    reason = "DENIED"


class NotFound(Fault):
    """There is no such thing, or none the caller may know of."""

    reason = "NOT_FOUND"


class Conflict(Fault):
    """The request contradicts the present state: a stale version, a taken key, a call still running."""

    reason = "CONFLICT"


class Exhausted(Fault):
    """Too much at once; try again after `retry_after` seconds."""

    reason = "EXHAUSTED"


class Unavailable(Fault):
    """A part we depend on does not answer; try again after `retry_after` seconds."""

    reason = "UNAVAILABLE"


class DeadlineExceeded(Fault):
    """The caller's time ran out; nothing was changed."""

    reason = "DEADLINE_EXCEEDED"


def invalid(field: str, reason: str) -> Invalid:
    """An `Invalid` with a single violation."""
    return Invalid([Violation(field, reason)])


@contextmanager
def inside(field: str) -> Iterator[None]:
    """Gives violations found in a part of a request the path they have in the whole: `phones` in `customer.phones`."""
    try:
        yield
    except Invalid as error:
        raise Invalid(Violation(f"{field}.{one.field}", one.reason) for one in error.violations) from None
