"""Exact, durable timers: set and cancelled inside a transaction, fired once by whichever worker comes first.

Firing is a transaction that does the timer's work and deletes it. Two workers may try at once; the store lets one
of the deletions through, the other finds nothing to delete and forgets what it did.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from threading import Event as StopSignal
from typing import TYPE_CHECKING, Any

from pymongo import DeleteOne, ReplaceOne
from pymongo.errors import PyMongoError

from chassis import log, metrics
from chassis.errors import Conflict, Unavailable
from chassis.store import Document, Index, Schema, Store, clock, transact

if TYPE_CHECKING:
    from chassis.work import Work

COLLECTION = "timers"
SCHEMA: Schema = {COLLECTION: (Index("due"),)}
POLL_SECONDS = 0.25
BATCH = 100
RETRY_SECONDS = 30

Handler = Callable[["Work", str, Document], None]
Begin = Callable[[Any, str], "Work"]


def timer_id(kind: str, key: str) -> str:
    """The id of a timer: one of a kind and key exists at a time."""
    return hashlib.sha256(f"{kind}\0{key}".encode()).hexdigest()[:32]


def scheduled(kind: str, key: str, at: datetime, payload: Document) -> ReplaceOne[Document]:
    """The write that sets a timer."""
    document = {"kind": kind, "key": key, "due": at, "payload": payload}
    return ReplaceOne({"_id": timer_id(kind, key)}, document, upsert=True)


def cancelled(kind: str, key: str) -> DeleteOne:
    """The write that removes a timer."""
    return DeleteOne({"_id": timer_id(kind, key)})


def run(store: Store, handlers: Mapping[str, Handler], begin: Begin, stop: StopSignal) -> None:
    """Fires what is due until `stop`; handlers get the work, the timer's key and its payload."""
    while not stop.is_set():
        try:
            if fire_due(store, handlers, begin) < BATCH:
                stop.wait(POLL_SECONDS)
        except (Unavailable, PyMongoError) as error:
            log.warning("timers wait for the store", error=error)
            stop.wait(1.0)


def fire_due(store: Store, handlers: Mapping[str, Handler], begin: Begin) -> int:
    """Fires the timers due now by the store's clock, earliest first; returns how many were looked at.

    Kinds this process does not know are left to a newer one beside it.
    """
    where = {"due": {"$lte": clock(store)}, "kind": {"$in": list(handlers)}}
    due = list(store[COLLECTION].find(where).sort("due", 1).limit(BATCH))
    for timer in due:
        _fire(store, handlers, begin, timer)
    return len(due)


def _fire(store: Store, handlers: Mapping[str, Handler], begin: Begin, timer: Document) -> None:
    def body(session: Any) -> None:
        work = begin(session, f"timer:{timer['kind']}")
        work.write(COLLECTION, DeleteOne({"_id": timer["_id"], "due": timer["due"]}), certain=True)
        handlers[timer["kind"]](work, timer["key"], timer["payload"])
        work.flush()

    try:
        transact(store, body)
    except Unavailable:
        raise
    except Exception as error:
        if isinstance(error, Conflict) and not _still_due(store, timer):
            return  # cancelled, moved or fired by another worker in the meantime
        log.error("timer failed", kind=timer["kind"], key=timer["key"], error=error)
        _postpone(store, timer)
        return
    metrics.TIMERS_FIRED.labels(timer["kind"]).inc()
    metrics.TIMER_LATENESS.observe((clock(store) - timer["due"]).total_seconds())


def _still_due(store: Store, timer: Document) -> bool:
    return store[COLLECTION].find_one({"_id": timer["_id"], "due": timer["due"]}) is not None


def _postpone(store: Store, timer: Document) -> None:
    """Puts a failing timer off, so that it does not stand in the way of the others."""
    later = clock(store) + timedelta(seconds=RETRY_SECONDS)
    store[COLLECTION].update_one({"_id": timer["_id"], "due": timer["due"]}, {"$set": {"due": later}})
