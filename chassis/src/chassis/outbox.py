"""Events leave with the transaction that made them: written beside the state, published by a relay afterwards.

A row holds the events of one transaction and one partition, so a bulk write costs a row a partition and not a row
an event. The relay publishes outside any transaction and marks a row only when the broker confirmed all of it;
a crash in between publishes it again, and consumers notice.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Event as StopSignal
from time import monotonic
from typing import Any, Protocol

from pymongo.errors import PyMongoError

from chassis import events, log, metrics
from chassis.errors import Unavailable
from chassis.events import PARTITIONS, Envelope, clock
from chassis.leases import Leases
from chassis.store import Document, Index, Schema, Store

COLLECTION = "outbox"
WINDOW = 200
MOST_ROWS = 1000
MOST_PENDING = 100_000
GATE_SECONDS = 5.0
KEPT_SECONDS = 7 * 24 * 3600
IDLE_SECONDS = 0.05
BY_QUEUES = frozenset({"unroutable", "nacked"})  # refused though the broker is there: not for long, perhaps
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 5.0
SCHEMA: Schema = {
    COLLECTION: (
        Index("partition, _id", where={"state": "pending"}),
        Index("keys", unique=True),  # no record has two events of one number
        Index("published", expire_seconds=KEPT_SECONDS),
    )
}


class Publisher(Protocol):
    """Sends events and returns those the broker did not take, each with the reason."""

    def ready(self) -> bool:
        """Whether something can be sent now; tries to connect where that is due."""
        ...

    def publish(self, envelopes: list[Envelope]) -> dict[str, str]:
        """Event ids that were not confirmed, with why."""
        ...

    def idle(self, seconds: float) -> None:
        """Waits and keeps the connection alive meanwhile."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


def rows(envelopes: Iterable[Envelope]) -> list[Document]:
    """Outbox rows for the events of one transaction."""
    partitions: dict[int, list[Envelope]] = defaultdict(list)
    for envelope in envelopes:
        partitions[envelope.partition].append(envelope)
    return [
        {
            "_id": together[0].event_id,
            "partition": number,
            "state": "pending",
            "written": together[0].occurred,
            "keys": [f"{one.aggregate_id}:{one.seq}" for one in together],
            "events": [one.document() for one in together],
        }
        for number, together in partitions.items()
    ]


def relay(store: Store, leases: Leases, publisher: Publisher, stop: StopSignal) -> None:
    """Publishes what this worker's partitions hold, until `stop`."""
    refused = Refused()
    while not stop.is_set():
        try:
            if not publish_pending(store, leases.held(), publisher, refused):
                publisher.idle(IDLE_SECONDS)
        except PyMongoError as error:
            log.warning("relay waits for the store", error=error)
            publisher.idle(1.0)
    publisher.close()


@dataclass
class Refused:
    """Rows the broker did not take are tried again a second later, then at longer intervals, so that they neither
    keep it busy nor hide those behind them."""

    again: dict[str, tuple[float, float]] = field(default_factory=dict)  # row -> when, after which wait

    def waiting(self) -> list[str]:
        """The rows not to be tried now."""
        return [row for row, (due, _) in self.again.items() if due > monotonic()]

    def note(self, rows: Iterable[str], *, taken: Iterable[str]) -> None:
        """Remembers which rows were refused, and forgets those that were taken."""
        for row in taken:
            self.again.pop(row, None)
        for row in rows:
            _, before = self.again.get(row, (0.0, 0.0))
            wait = min(2 * before, LONGEST_SECONDS) or FIRST_SECONDS
            if row in self.again or len(self.again) < MOST_ROWS:
                self.again[row] = (monotonic() + wait, wait)


def publish_pending(
    store: Store, partitions: Iterable[int], publisher: Publisher, refused: Refused | None = None
) -> int:
    """One round over the partitions; returns how many rows were published."""
    refused = refused or Refused()
    found = pending(store, partitions, without=refused.waiting())
    _measure(found)
    done = 0
    for batch in _windows(found) if found and publisher.ready() else ():
        done += _publish(store, batch, publisher, refused)
    return done


def _windows(found: list[Document]) -> Iterator[list[Document]]:
    """Rows in batches of about `WINDOW` events; a row is never split."""
    batch: list[Document] = []
    count = 0
    for row in found:
        batch.append(row)
        count += len(row["events"])
        if count >= WINDOW:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def pending(store: Store, partitions: Iterable[int], *, without: Iterable[str] = ()) -> list[Document]:
    """The oldest unpublished rows of these partitions, in order; a long queue of one does not hide the others."""
    wanted, left_out = sorted(partitions), list(without)
    found = _oldest(store, {"$in": wanted}, MOST_ROWS, left_out)
    if len(found) == MOST_ROWS:
        found = [row for one in wanted for row in _oldest(store, one, MOST_ROWS // len(wanted), left_out)]
    return sorted(found, key=lambda row: row["_id"])


def _oldest(store: Store, partition: Any, most: int, without: list[str]) -> list[Document]:
    where: Document = {"state": "pending", "partition": partition}
    if without:
        where["_id"] = {"$nin": without}
    return list(store[COLLECTION].find(where).sort([("partition", 1), ("_id", 1)]).limit(most))


def _publish(store: Store, batch: list[Document], publisher: Publisher, put_off: Refused) -> int:
    envelopes = [events.from_document(one) for row in batch for one in row["events"]]
    envelopes.sort(key=lambda one: one.seq)  # stable: order between aggregates stays as written
    refused = publisher.publish(envelopes)
    done = [row["_id"] for row in batch if not any(one["event_id"] in refused for one in row["events"])]
    if done:
        mark = {"$set": {"state": "published", "published": clock()}}
        store[COLLECTION].update_many({"_id": {"$in": done}}, mark)
    metrics.OUTBOX_PUBLISHED.inc(len(envelopes) - len(refused))
    put_off.note({row["_id"] for row in batch for one in row["events"] if refused.get(one["event_id"]) in BY_QUEUES},
                 taken=done)  # fmt: skip
    _report(refused)
    return len(done)


def _report(refused: dict[str, str]) -> None:
    for reason in refused.values():
        metrics.OUTBOX_FAILURES.labels(reason).inc()
    if refused:
        log.warning("events not taken by the broker", count=len(refused), reasons=", ".join(set(refused.values())))


def _measure(found: list[Document]) -> None:
    oldest = min((row["written"] for row in found), default=clock())
    metrics.OUTBOX_AGE.set((clock() - oldest).total_seconds())
    metrics.OUTBOX_BACKLOG.set(len(found))


@dataclass
class Gate:
    """Refuses new work while the broker has been gone for so long that the outbox is full; looks every few seconds."""

    store: Store
    most: int = MOST_PENDING
    _looked: float = float("-inf")
    _full: bool = False

    def admit(self) -> None:
        """Raises `Unavailable` while more than `most` transactions wait."""
        if monotonic() - self._looked > GATE_SECONDS:
            self._looked = monotonic()
            # Looks one row beyond the limit in the index of what is pending instead of counting.
            where = {"state": "pending", "partition": {"$in": list(range(PARTITIONS))}}
            found = self.store[COLLECTION].find(where, {"_id": 1}).skip(self.most).limit(1)
            self._full = next(iter(found), None) is not None
        if self._full:
            raise Unavailable("too many events wait for the broker", reason="OUTBOX_FULL", retry_after=30)
