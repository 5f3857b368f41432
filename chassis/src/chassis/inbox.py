"""Events arrive at least once, in any order, and take effect once, in the order of their aggregate.

The effect, the record of having handled the event and the aggregate's position are one transaction. An event older
than the position is dropped, the next one is applied, an early one is parked until the gap is filled. An event
whose handler fails is parked and acknowledged: its aggregate waits behind it, every other flows.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event as StopSignal
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from chassis import contract, log, metrics, parked, trace
from chassis.broker import Delivery
from chassis.errors import Unavailable
from chassis.events import Envelope, from_document
from chassis.store import Duplicate, Index, Schema, Session, Store, reachable, transact
from chassis.work import Work

HANDLED, POSITIONS = "inbox", "positions"
KEPT_SECONDS = 30 * 24 * 3600
SCHEMA: Schema = {HANDLED: (Index("handled", expire_seconds=KEPT_SECONDS),), POSITIONS: (), **parked.SCHEMA}
BATCH = 50
MOST_DELIVERIES = 4
IDLE_SECONDS = 0.2

Handler = Callable[[Work, Any], None]
Begin = Callable[[Session, str], Work]
Handlers = Mapping[str, Handler]
Settle = Callable[[list[Delivery]], None]


@dataclass(frozen=True)
class Inbox:
    """A consumer: where it keeps what it did, what it does with which event, and how it begins a transaction.

    `handlers` go by the event's full name; `every`, where given, sees each event before its handler does.
    """

    store: Store
    handlers: Handlers
    begin: Begin
    every: Callable[[Work, Envelope], None] | None = None


def run(inbox: Inbox, inbound: "Queue[Delivery]", settle: Settle, stop: StopSignal) -> None:
    """Handles deliveries until `stop`, in batches; settles each only after its transaction."""
    while not stop.is_set():
        batch = _collect(inbound)
        if batch:
            _take(inbox, batch, settle, stop)


def _collect(inbound: "Queue[Delivery]") -> list[Delivery]:
    batch: list[Delivery] = []
    try:
        batch.append(inbound.get(timeout=IDLE_SECONDS))
        while len(batch) < BATCH:
            batch.append(inbound.get_nowait())
    except Empty:
        return batch
    return batch


def _take(inbox: Inbox, batch: list[Delivery], settle: Settle, stop: StopSignal) -> None:
    """Handles a batch, half as much at a time whenever the store was away: perhaps it was too much for it at once."""
    counted: set[str] = set()
    size, alone = len(batch), 0
    while batch and not stop.is_set():
        some = batch[:size]
        try:
            receive(inbox, [(one.envelope, one.redelivered) for one in some], counted)
            settle(some)
            batch, alone = batch[size:], 0
        except (Unavailable, PyMongoError) as error:
            # The store is away, not the event wrong: nothing is settled until it is back.
            log.warning("events wait for the store", count=len(batch), error=error)
            alone += len(some) == 1
            if alone > 2 and reachable(inbox.store):  # the store is there for everybody else: it is the event
                parked.fail(inbox.store, some[0].envelope, error, attempts=1)
            size = max(1, size // 2)
            stop.wait(1.0)


def receive(inbox: Inbox, batch: list[tuple[Envelope, bool]], counted: set[str] | None = None) -> None:
    """Handles events, each with whether it was delivered before; returns when all may be acknowledged.

    A message delivered before may be what killed the process then. The first time, all such messages are written down
    and tried together; the next time each alone and counted just before, so that an innocent one is never blamed.
    `counted` holds what this delivery has been counted for, should the store be away in between.
    """
    counted = set() if counted is None else counted
    known = parked.states(inbox.store, [envelope.event_id for envelope, _ in batch])
    batch = [(one, before) for one, before in batch if known.get(one.event_id) not in parked.WITH_THE_STORE]
    fresh = [one for one, before in batch if before and one.event_id not in counted]
    if all(known.get(one.event_id) != "trying" for one in fresh):
        parked.suspect(inbox.store, fresh)
        counted |= {one.event_id for one in fresh}
        try:
            return together(inbox, [one for one, _ in batch], waiting={one.event_id for one, before in batch if before})
        except Unavailable:
            raise
        except Exception as error:
            log.info("batch taken apart", count=len(batch), error=error)
    for envelope, before in batch:
        _count_and_try(inbox, envelope, counted) if before else _alone(inbox, envelope)


def _count_and_try(inbox: Inbox, envelope: Envelope, counted: set[str]) -> None:
    handled = inbox.store[HANDLED].find_one({"_id": envelope.event_id}) is not None
    if envelope.event_id not in counted and not handled:
        counted.add(envelope.event_id)
        if parked.count_delivery(inbox.store, envelope) > MOST_DELIVERIES:
            return parked.bury(inbox.store, envelope, error="killed its consumer too often")
    _alone(inbox, envelope)


def together(inbox: Inbox, envelopes: list[Envelope], *, waiting: set[str], follow: bool = True) -> None:
    """Handles events in one transaction; those `waiting` are parked until then."""

    def body(session: Session) -> None:
        work = inbox.begin(session, "event:batch")
        apply(inbox, work, envelopes, waiting=waiting, follow=follow)
        work.flush()

    try:
        transact(inbox.store, body)
    except Duplicate as duplicate:
        if duplicate.collection != POSITIONS:
            raise
        transact(inbox.store, body)  # another worker began with this record in between; now it is seen


def _alone(inbox: Inbox, envelope: Envelope, *, attempts: int = 1) -> None:
    """Handles one event; its failure counts as the `attempts`-th. Those that waited for it become due by themselves,
    so that none is blamed for another's failure."""
    try:
        with trace.span(f"handle {envelope.type}", parent=envelope.traceparent, kind=trace.CONSUMER):
            together(inbox, [envelope], waiting={envelope.event_id}, follow=False)
    except Unavailable:
        raise
    except Duplicate as duplicate:
        if duplicate.collection != HANDLED:
            parked.fail(inbox.store, envelope, duplicate, attempts=attempts)
    except Exception as error:
        parked.fail(inbox.store, envelope, error, attempts=attempts)


def apply(inbox: Inbox, work: Work, envelopes: Iterable[Envelope], *, waiting: set[str], follow: bool) -> None:
    """Applies what is next, drops what is old, parks what is early; what waited for it in the store is applied in its
    place among them or, without `follow`, released."""
    given = {one.event_id: one for one in envelopes}
    keys = sorted({one.aggregate_id for one in given.values()})
    early = parked.early(work.store, work.session, keys)
    there = waiting | {one.event_id for one in early}
    before = _positions(work, keys)
    after = dict(before)
    others = [one for one in early if one.event_id not in given]
    for envelope in sorted([*given.values(), *(others if follow else ())], key=lambda one: one.seq):
        if envelope.event_id in given or envelope.seq <= after.get(envelope.aggregate_id, 0) + 1:
            _step(inbox, work, envelope, after, waiting=envelope.event_id in there)
    for envelope in () if follow else others:
        if envelope.seq <= after.get(envelope.aggregate_id, 0) + 1:
            work.write(parked.COLLECTION, parked.releasing(envelope))
    for key in keys:
        if after.get(key, 0) != before.get(key, 0):
            _move(work, key, before.get(key, 0), after[key])


def _step(inbox: Inbox, work: Work, envelope: Envelope, positions: dict[str, int], *, waiting: bool) -> None:
    last = positions.get(envelope.aggregate_id, 0)
    if envelope.seq <= last:
        result = "dropped"
    elif envelope.seq > last + 1:
        result = "early"
        work.write(parked.COLLECTION, parked.parking(envelope, {"state": "early"}))
        _notice(work, envelope)
    else:
        result = "applied"
        positions[envelope.aggregate_id] = envelope.seq
        _handle(inbox, work, envelope)
    if waiting and result != "early":
        work.write(parked.COLLECTION, parked.leaving(envelope))
    metrics.EVENTS_HANDLED.labels(envelope.type, result).inc()


def _handle(inbox: Inbox, work: Work, envelope: Envelope) -> None:
    work.put(HANDLED, {"_id": envelope.event_id, "handled": work.now})
    with trace.span(f"apply {envelope.type}", parent=envelope.traceparent, kind=trace.CONSUMER):
        work.traceparent, work.occurred = trace.traceparent(), envelope.occurred
        if inbox.every is not None:
            inbox.every(work, envelope)
        handler = inbox.handlers.get(envelope.type)
        if handler is not None:
            handler(work, envelope.message())
    metrics.EVENT_LAG.observe((work.now - envelope.occurred).total_seconds())


def position(work: Work, aggregate_id: str) -> int:
    """The number of the last event of a record that this consumer has applied; 0 before the first."""
    return _positions(work, [aggregate_id]).get(aggregate_id, 0)


def _positions(work: Work, keys: list[str]) -> dict[str, int]:
    found = work.store[POSITIONS].find({"_id": {"$in": keys}}, session=work.session)
    return {one["_id"]: one["seq"] for one in found}


def _move(work: Work, key: str, before: int, after: int) -> None:
    write = UpdateOne({"_id": key, "seq": before}, {"$set": {"seq": after}}, upsert=before == 0)
    work.write(POSITIONS, write, certain=before > 0)


def _notice(work: Work, early: Envelope) -> None:
    """Makes parking an early event collide with handling the one before it at the same moment: else neither would see
    the other, and the early one would wait for ever."""
    write = UpdateOne(
        {"_id": early.aggregate_id}, {"$set": {"early": early.seq}, "$setOnInsert": {"seq": 0}}, upsert=True
    )
    work.write(POSITIONS, write)


def retry_parked(inbox: Inbox, stop: StopSignal) -> None:
    """Tries parked events again when they are due, until `stop`."""
    looked = False
    while not stop.is_set():
        try:
            if not looked:
                parked.release_known(inbox.store, contract.events())
                looked = True
            if not retry_due(inbox):
                stop.wait(1.0)
        except (Unavailable, PyMongoError) as error:
            log.warning("parked events wait for the store", error=error)
            stop.wait(1.0)


def retry_due(inbox: Inbox) -> int:
    """Tries what is due now, oldest first, each once by one worker; returns how many events were tried."""
    tried = 0
    for one in parked.due(inbox.store):
        attempts = parked.claim(inbox.store, one)
        if attempts:
            _retry(inbox, from_document(one["envelope"]), attempts)
            tried += 1
    parked.measure(inbox.store)
    return tried


def _retry(inbox: Inbox, envelope: Envelope, attempts: int) -> None:
    if attempts > len(parked.RETRIES) + 1:  # the last try did not even live to fail
        return parked.bury(inbox.store, envelope, error="killed its consumer too often")
    try:
        _alone(inbox, envelope, attempts=attempts)
    except Unavailable:
        parked.unclaim(inbox.store, envelope, attempts)
        raise
