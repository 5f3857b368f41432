"""A consumer that makes every wrong delivery visible: `python -m chaos.witness migrate|work`.

What it does for an event is neither idempotent nor blind to order: it appends to a ledger and counts. Some events fail
the first time, and some new customers set a timer.
"""

import os
import zlib
from datetime import timedelta
from typing import Any

from crm.customer.v1 import events_pb2
from pymongo import UpdateOne

from chassis.events import Envelope
from chassis.service import Service, run
from chassis.store import Document, Index, Schema
from chassis.work import Work

LEDGER, RECORDS, RUNG, TRIED = "ledger", "records", "rung", "tried"
SCHEMA: Schema = {LEDGER: (Index("aggregate_id"),), RECORDS: (), RUNG: (), TRIED: ()}
REGISTERED = events_pb2.CustomerRegistered.DESCRIPTOR.full_name
STUMBLES = 499  # one event in so many fails the first time; CHAOS_STUMBLES says otherwise
RING_AFTER = timedelta(seconds=2)


class Stumbled(Exception):
    """What a handler fails with that works the second time."""


def write_down(work: Work, envelope: Envelope) -> None:
    """One row for each time this event took effect, and its place among those of its record."""
    _stumble(work, envelope)
    # Read once in a transaction: what it wrote itself since is counted here.
    places: dict[str, int] = vars(work).setdefault("witnessed", {})
    if envelope.aggregate_id not in places:
        found = work.store[RECORDS].find_one({"_id": envelope.aggregate_id}, session=work.session)
        places[envelope.aggregate_id] = found["count"] if found else 0
    places[envelope.aggregate_id] += 1
    work.put(LEDGER, _row(work, envelope, place=places[envelope.aggregate_id]))
    change = {"$inc": {"count": 1, "sum": envelope.seq}}
    work.write(RECORDS, UpdateOne({"_id": envelope.aggregate_id}, change, upsert=True))
    if envelope.type == REGISTERED and rings(envelope.event_id):
        work.schedule("ring", envelope.event_id, work.now + RING_AFTER)


def rings(event_id: str) -> bool:
    """Whether the new customer that this event tells of sets a timer: one in eight does."""
    return zlib.crc32(event_id.encode()) % 8 == 0


def _row(work: Work, envelope: Envelope, *, place: int) -> Document:
    names = ("event_id", "type", "aggregate_id", "seq")
    return {"_id": work.new_id(), "place": place, **{name: getattr(envelope, name) for name in names}}


def _stumble(work: Work, envelope: Envelope) -> None:
    if zlib.crc32(envelope.event_id.encode()) % int(os.environ.get("CHAOS_STUMBLES", STUMBLES)):
        return
    # Outside the transaction, which will not come to pass.
    first = work.store[TRIED].update_one({"_id": envelope.event_id}, {"$set": {"at": work.now}}, upsert=True)
    if first.upserted_id is not None:
        raise Stumbled


def ring(work: Work, key: str, _payload: Any) -> None:
    """One row for each time the timer fired."""
    work.put(RUNG, {"_id": work.new_id(), "key": key})


def service() -> Service:
    """The witness as a service."""
    return Service(
        name="witness",
        schema=SCHEMA,
        endpoints={},
        listens=("crm.customer.v1",),
        every=write_down,
        timers={"ring": ring},
    )


if __name__ == "__main__":
    run(service)
