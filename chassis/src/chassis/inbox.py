"""Events arrive at least once, in any order, and take effect once, in the order of their aggregate.

The effect, the record of having handled the event and the aggregate's position are one transaction. An event older
than the position is dropped, the next one is applied, an early one is parked until the gap is filled. An event
whose handler fails is parked and acknowledged: its aggregate waits behind it, every other flows.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from queue import Empty, Queue
from random import uniform
from threading import Event as StopSignal
from typing import Any

from pymongo import DeleteOne, UpdateOne
from pymongo.errors import PyMongoError

from chassis import events, log, metrics, trace
from chassis.broker import Delivery
from chassis.errors import Fault, Unavailable
from chassis.events import Envelope, clock
from chassis.store import Document, Duplicate, Index, Schema, Session, Store, transact
from chassis.work import Work

HANDLED, POSITIONS, PARKED = "inbox", "positions", "parked"
KEPT_SECONDS = 30 * 24 * 3600
SCHEMA: Schema = {
    HANDLED: (Index("handled", expire_seconds=KEPT_SECONDS),),
    POSITIONS: (),
    PARKED: (Index("aggregate_id, seq"), Index("state, next")),
}
BATCH = 50
RETRIES = (5.0, 30.0, 120.0, 600.0, 3600.0)
MOST_DELIVERIES = 4
IDLE_SECONDS = 0.2

Handler = Callable[[Work, Any], None]
Begin = Callable[[Session, str], Work]
Handlers = Mapping[str, Handler]


@dataclass(frozen=True)
class Inbox:
    """A consumer: where it keeps what it did, what it does with which event, and how it begins a transaction.

    `handlers` go by the event's full name; `every`, where given, sees each event before its handler does.
    """

    store: Store
    handlers: Handlers
    begin: Begin
    every: Callable[[Work, Envelope], None] | None = None


def run(inbox: Inbox, inbound: "Queue[Delivery]", settle: Callable[[list[Delivery]], None], stop: StopSignal) -> None:
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


def _take(inbox: Inbox, batch: list[Delivery], settle: Callable[[list[Delivery]], None], stop: StopSignal) -> None:
    counted: set[str] = set()
    while not stop.is_set():
        try:
            receive(inbox, [(one.envelope, one.redelivered) for one in batch], counted)
            return settle(batch)
        except (Unavailable, PyMongoError) as error:
            # The store is away, not the event wrong: nothing is settled until it is back.
            log.warning("events wait for the store", count=len(batch), error=error)
            stop.wait(1.0)


def receive(inbox: Inbox, batch: list[tuple[Envelope, bool]], counted: set[str] | None = None) -> None:
    """Handles events, each with whether it was delivered before; returns when all may be acknowledged.

    A message delivered before may be what killed the process then. The first time, all such messages are written down
    and tried together; the next time each alone and counted just before, so that an innocent one is never blamed.
    `counted` holds what this delivery has been counted for, should the store be away in between.
    """
    counted = set() if counted is None else counted
    again = [envelope for envelope, before in batch if before]
    if not _suspected(inbox.store, [one for one in again if one.event_id not in counted]):
        _suspect(inbox.store, [one for one in again if one.event_id not in counted])
        counted |= {one.event_id for one in again}
        try:
            return _together(inbox, [envelope for envelope, _ in batch], parked={one.event_id for one in again})
        except Unavailable:
            raise
        except Exception as error:
            log.info("batch taken apart", count=len(batch), error=error)
    for envelope, before in batch:
        _count_and_try(inbox, envelope, counted) if before else _alone(inbox, envelope)


def _suspected(store: Store, envelopes: list[Envelope]) -> bool:
    ids = [one.event_id for one in envelopes]
    return bool(ids) and store[PARKED].find_one({"_id": {"$in": ids}}, {"_id": 1}) is not None


def _suspect(store: Store, envelopes: list[Envelope]) -> None:
    if envelopes:
        store[PARKED].bulk_write([_parked(one, {"state": "trying", "deliveries": 1}) for one in envelopes])


def _count_and_try(inbox: Inbox, envelope: Envelope, counted: set[str]) -> None:
    if envelope.event_id not in counted:
        counted.add(envelope.event_id)
        if _count_delivery(inbox.store, envelope) > MOST_DELIVERIES:
            return _park(inbox.store, envelope, state="dead", error="killed its consumer too often")
    _alone(inbox, envelope)


def _together(inbox: Inbox, envelopes: list[Envelope], *, parked: set[str]) -> None:
    """Handles events in one transaction; `parked` are those that are written down as waiting."""

    def body(session: Session) -> None:
        work = inbox.begin(session, "event:batch")
        _apply(inbox, work, envelopes, parked=parked)
        work.flush()

    transact(inbox.store, body)


def _alone(inbox: Inbox, envelope: Envelope) -> None:
    try:
        with trace.span(f"handle {envelope.type}", parent=envelope.traceparent, kind=trace.CONSUMER):
            _together(inbox, [envelope], parked={envelope.event_id})
    except Unavailable:
        raise
    except Duplicate as duplicate:
        if duplicate.collection != HANDLED:
            _fail(inbox.store, envelope, duplicate)
    except Exception as error:
        _fail(inbox.store, envelope, error)


def _apply(inbox: Inbox, work: Work, envelopes: Iterable[Envelope], *, parked: set[str]) -> None:
    """Applies what is next, drops what is old, parks what is early, then what the gaps were waiting for."""
    ordered = sorted(envelopes, key=lambda one: one.seq)
    keys = sorted({one.aggregate_id for one in ordered})
    before = _positions(work, keys)
    after = dict(before)
    for envelope in ordered:
        _step(inbox, work, envelope, after, parked=envelope.event_id in parked)
    for early in _waiting(work, keys):
        if early.seq <= after.get(early.aggregate_id, 0) + 1:
            _step(inbox, work, early, after, parked=True)
    for key in keys:
        if after.get(key, 0) != before.get(key, 0):
            _move(work, key, before.get(key, 0), after[key])


def _step(inbox: Inbox, work: Work, envelope: Envelope, positions: dict[str, int], *, parked: bool) -> None:
    last = positions.get(envelope.aggregate_id, 0)
    if envelope.seq <= last:
        result = "dropped"
    elif envelope.seq > last + 1:
        result = "early"
        work.write(PARKED, _parked(envelope, {"state": "early"}))
    else:
        result = "applied"
        positions[envelope.aggregate_id] = envelope.seq
        _handle(inbox, work, envelope)
    if parked and result != "early":
        work.write(PARKED, DeleteOne({"_id": envelope.event_id}))
    metrics.EVENTS_HANDLED.labels(envelope.type, result).inc()


def _handle(inbox: Inbox, work: Work, envelope: Envelope) -> None:
    work.put(HANDLED, {"_id": envelope.event_id, "handled": work.now})
    with trace.span(f"apply {envelope.type}", parent=envelope.traceparent, kind=trace.CONSUMER):
        work.traceparent = trace.traceparent()
        if inbox.every is not None:
            inbox.every(work, envelope)
        handler = inbox.handlers.get(envelope.type)
        if handler is not None:
            handler(work, envelope.message())
    metrics.EVENT_LAG.observe((work.now - envelope.occurred).total_seconds())


def _positions(work: Work, keys: list[str]) -> dict[str, int]:
    found = work.store[POSITIONS].find({"_id": {"$in": keys}}, session=work.session)
    return {one["_id"]: one["seq"] for one in found}


def _move(work: Work, key: str, before: int, after: int) -> None:
    if before == 0:
        work.put(POSITIONS, {"_id": key, "seq": after})
    else:
        work.write(POSITIONS, UpdateOne({"_id": key, "seq": before}, {"$set": {"seq": after}}), certain=True)


def _waiting(work: Work, keys: list[str]) -> list[Envelope]:
    where = {"aggregate_id": {"$in": keys}, "state": "early"}
    found = [events.from_document(one["envelope"]) for one in work.store[PARKED].find(where, session=work.session)]
    return sorted(found, key=lambda one: one.seq)


# --- events that wait ------------------------------------------------------------------------------------------------


def _parked(envelope: Envelope, changes: Document) -> UpdateOne:
    fixed = {"aggregate_id": envelope.aggregate_id, "seq": envelope.seq, "envelope": envelope.document()}
    return UpdateOne({"_id": envelope.event_id}, {"$set": changes, "$setOnInsert": fixed}, upsert=True)


def _park(store: Store, envelope: Envelope, *, state: str, error: str, **changes: Any) -> None:
    store[PARKED].bulk_write([_parked(envelope, {"state": state, "error": error, "since": clock(), **changes})])
    metrics.EVENTS_HANDLED.labels(envelope.type, state).inc()
    log.error("event parked", type=envelope.type, event_id=envelope.event_id, state=state, error=error)


def _count_delivery(store: Store, envelope: Envelope) -> int:
    if store[HANDLED].find_one({"_id": envelope.event_id}) is not None:
        return 0
    count = UpdateOne({"_id": envelope.event_id}, {"$inc": {"deliveries": 1}})
    store[PARKED].bulk_write([_parked(envelope, {"state": "trying"}), count])
    found = store[PARKED].find_one({"_id": envelope.event_id}, {"deliveries": 1})
    return int(found["deliveries"]) if found else 0


def _fail(store: Store, envelope: Envelope, error: Exception) -> None:
    found = store[PARKED].find_one({"_id": envelope.event_id}) or {}
    attempts = found.get("attempts", 0) + 1
    log.warning("event handler failed", type=envelope.type, attempt=attempts, error=error)
    reason = error.reason if isinstance(error, Fault) else type(error).__name__
    if attempts > len(RETRIES):
        return _park(store, envelope, state="dead", error=reason, attempts=attempts)
    _park(store, envelope, state="failed", error=reason, attempts=attempts, next=_due(attempts))


def _due(attempts: int) -> datetime:
    return clock() + timedelta(seconds=RETRIES[attempts - 1] * uniform(0.8, 1.2))


def retry_parked(inbox: Inbox, stop: StopSignal) -> None:
    """Tries parked events again when they are due, until `stop`."""
    while not stop.is_set():
        try:
            retry_due(inbox)
        except (Unavailable, PyMongoError) as error:
            log.warning("parked events wait for the store", error=error)
        stop.wait(1.0)


def retry_due(inbox: Inbox) -> int:
    """Tries what is due now, oldest first; returns how many events were tried."""
    due = list(inbox.store[PARKED].find({"state": "failed", "next": {"$lte": clock()}}).sort("next", 1).limit(BATCH))
    for one in due:
        _alone(inbox, events.from_document(one["envelope"]))
    _measure(inbox.store)
    return len(due)


def _measure(store: Store) -> None:
    for state in ("early", "failed", "dead"):
        found = store[PARKED].find({"state": state}, {"_id": 1}).limit(1000)
        metrics.EVENTS_PARKED.labels(state).set(sum(1 for _ in found))
