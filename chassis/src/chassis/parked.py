"""Events that wait in the store: early ones, those whose handler failed, and those that only a person can help.

| state    | why it is here                                         | what comes next                                |
|----------|--------------------------------------------------------|------------------------------------------------|
| `trying` | was delivered again: it may be what killed the process | handled, or set aside as `dead`                |
| `early`  | an event of its record before it is missing            | handled with that one, or `due` after it       |
| `due`    | it may be handled now                                  | handled                                        |
| `failed` | its handler raised, `attempts` times                   | tried again at `next`, `dead` after all tries  |
| `dead`   | it failed too often, or killed its consumer            | an operator replays or drops it                |
"""

import traceback
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import uniform

from pymongo import DeleteOne, UpdateOne

from chassis import log, metrics
from chassis.errors import Fault
from chassis.events import Envelope, from_document
from chassis.store import Document, Index, Schema, Session, Store, clock

COLLECTION = "parked"
SCHEMA: Schema = {COLLECTION: (Index("aggregate_id, seq"), Index("state, next"))}
RETRIES = (5.0, 30.0, 120.0, 600.0, 3600.0)
CLAIM = timedelta(seconds=90)  # longer than any handler: only of a dead worker does a claim run out
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)  # whatever a worker's clock says
WITH_THE_STORE = frozenset({"due", "failed", "dead"})
BATCH = 50


def parking(envelope: Envelope, changes: Document) -> UpdateOne:
    """The write that parks an event, or changes how it is parked."""
    fixed = {"aggregate_id": envelope.aggregate_id, "seq": envelope.seq, "type": envelope.type}
    kept = {**fixed, "occurred": envelope.occurred, "envelope": envelope.document()}
    return UpdateOne({"_id": envelope.event_id}, {"$set": changes, "$setOnInsert": kept}, upsert=True)


def leaving(envelope: Envelope) -> DeleteOne:
    """The write that ends an event's waiting."""
    return DeleteOne({"_id": envelope.event_id})


def releasing(envelope: Envelope) -> UpdateOne:
    """The write that lets an early event be tried now."""
    return UpdateOne({"_id": envelope.event_id, "state": "early"}, {"$set": {"state": "due", "next": AT_ONCE}})


def states(store: Store, event_ids: Iterable[str]) -> dict[str, str]:
    """How those of these events that wait are parked."""
    wanted = list(event_ids)
    found = store[COLLECTION].find({"_id": {"$in": wanted}}, {"state": 1}) if wanted else ()
    return {one["_id"]: one["state"] for one in found}


def early(store: Store, session: Session, aggregate_ids: list[str]) -> list[Envelope]:
    """The early events of these records, in order."""
    where = {"aggregate_id": {"$in": aggregate_ids}, "state": "early"}
    found = [from_document(one["envelope"]) for one in store[COLLECTION].find(where, session=session)]
    return sorted(found, key=lambda one: one.seq)


def suspect(store: Store, envelopes: list[Envelope]) -> None:
    """Writes down that these are tried again, together."""
    if envelopes:
        store[COLLECTION].bulk_write([parking(one, {"state": "trying", "deliveries": 1}) for one in envelopes])


def count_delivery(store: Store, envelope: Envelope) -> int:
    """Counts that this event is about to be tried after having been delivered before; returns how often so far."""
    count = UpdateOne({"_id": envelope.event_id}, {"$inc": {"deliveries": 1}})
    store[COLLECTION].bulk_write([parking(envelope, {"state": "trying"}), count])
    found = store[COLLECTION].find_one({"_id": envelope.event_id}, {"deliveries": 1})
    return int(found["deliveries"]) if found else 0


def bury(store: Store, envelope: Envelope, *, error: str) -> None:
    """Sets an event aside until an operator looks at it."""
    _park(store, envelope, {"state": "dead", "error": error})


def fail(store: Store, envelope: Envelope, error: Exception, *, attempts: int) -> None:
    """Parks an event whose handler failed for the `attempts`-th time, until it is due again or for good."""
    changes = {"error": _reason(error), "failed_at": _place(error), "attempts": attempts}
    if attempts > len(RETRIES):
        return _park(store, envelope, {**changes, "state": "dead"})
    delay = timedelta(seconds=RETRIES[attempts - 1] * uniform(0.8, 1.2))
    _park(store, envelope, {**changes, "state": "failed", "next": clock(store) + delay})


def _park(store: Store, envelope: Envelope, changes: Document) -> None:
    store[COLLECTION].bulk_write([parking(envelope, {**changes, "since": clock(store)})])
    metrics.EVENTS_HANDLED.labels(envelope.type, changes["state"]).inc()
    shown = {name: changes.get(name, "") for name in ("state", "error", "failed_at", "attempts")}
    log.error("event parked", type=envelope.type, event_id=envelope.event_id, **shown)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, Fault) else type(error).__name__


def _place(error: Exception) -> str:
    """Where it was raised, without its text: that may hold personal data."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else ""


def due(store: Store) -> list[Document]:
    """What may be tried now, oldest first."""
    where = {"state": {"$in": ["failed", "due"]}, "next": {"$lte": clock(store)}}
    return list(store[COLLECTION].find(where).sort("next", 1).limit(BATCH))


def claim(store: Store, one: Document) -> int:
    """Makes a due event this worker's to try and counts the attempt; returns its number, 0 if another was faster."""
    attempts = int(one.get("attempts", 0)) + 1
    mine = {"state": "failed", "next": clock(store) + CLAIM, "attempts": attempts}
    found = store[COLLECTION].update_one(
        {"_id": one["_id"], "state": one["state"], "next": one["next"]}, {"$set": mine}
    )
    return attempts if found.modified_count else 0


def unclaim(store: Store, envelope: Envelope, attempts: int) -> None:
    """Takes back that an event was tried: it was the store that failed."""
    change = {"attempts": attempts - 1, "next": clock(store) + timedelta(seconds=RETRIES[0])}
    store[COLLECTION].update_one({"_id": envelope.event_id, "attempts": attempts}, {"$set": change})


def release_known(store: Store, types: Iterable[str]) -> None:
    """Lets events be tried whose contract was missing here and is there now, with this release."""
    where = {"state": {"$in": ["failed", "dead"]}, "error": "UNKNOWN_EVENT", "type": {"$in": list(types)}}
    store[COLLECTION].update_many(where, {"$set": {"state": "due", "next": AT_ONCE, "attempts": 0}})


def measure(store: Store) -> None:
    """Sets the gauges of what waits, up to a thousand of each state."""
    for state in ("early", "failed", "dead"):
        found = store[COLLECTION].find({"state": state}, {"_id": 1}).limit(1000)
        metrics.EVENTS_PARKED.labels(state).set(sum(1 for _ in found))
