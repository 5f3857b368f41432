"""Where an operator works: one service's database, with every change made in a transaction that says who and why."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from chassis import idempotency, work
from chassis.errors import invalid
from chassis.events import Envelope
from chassis.identity import Caller
from chassis.store import Document, Session, Store, transact
from chassis.work import Work

BATCH = 100
T = TypeVar("T")


@dataclass(frozen=True)
class Desk:
    """A service's database, who works at it and for what reason."""

    service: str
    store: Store
    operator: str
    reason: str = ""

    @property
    def caller(self) -> Caller:
        """The operator as the audit knows them."""
        return Caller(subject=f"operator:{self.operator}", channel="OPERATOR")

    def begin(self, session: Session, operation: str) -> Work:
        """A work of this operator's."""
        return idempotency.begin(self.store, session, self.caller, source=self.service, operation=operation)

    def audited(self, operation: str, touched: Iterable[Envelope], body: Callable[[Work], None]) -> None:
        """Does `body` and writes down that it was done to these events, both or neither."""

        def run(session: Session) -> None:
            made = self.begin(session, operation)
            self.note(made, touched)
            body(made)
            made.flush()

        transact(self.store, run)

    def note(self, made: Work, touched: Iterable[Envelope]) -> None:
        """The audit entry of an action on events."""
        made.put(work.AUDIT, made.audit_entry(touched) | {"reason": self.reason})


@dataclass(frozen=True)
class Wanted:
    """Which events an operator means: ids, or all that fit every condition given. Times are those of occurrence."""

    ids: tuple[str, ...] = ()
    type: str = ""
    record: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing narrows it down."""
        return self == Wanted()

    def fits(self, one: Envelope) -> bool:
        """Whether an event is meant. A type may be given without its package."""
        return (
            (not self.ids or one.event_id in self.ids)
            and (not self.type or self.type in (one.type, one.type.rpartition(".")[2]))
            and (not self.record or one.aggregate_id == self.record)
            and (self.since is None or one.occurred >= self.since)
            and (self.until is None or one.occurred < self.until)
        )


def instant(text: str) -> datetime:
    """An instant as people write it: 2026-05-01, 2026-05-01T08:30, with or without a zone (UTC)."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise invalid("time", f"{text!r} is not a time such as 2026-05-01T08:30") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def chunks(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    some: list[T] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def audit(desk: Desk, *, since: datetime | None = None) -> Iterator[dict[str, Any]]:
    """What operators did here, oldest first."""
    where: Document = {"subject": {"$gte": "operator:", "$lt": "operator;"}} | (
        {"at": {"$gte": since}} if since else {}
    )
    yield from sorted(desk.store[work.AUDIT].find(where), key=lambda row: row["_id"])
