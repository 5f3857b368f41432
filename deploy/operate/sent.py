"""Events in a service's outbox: what waits to be published, and publishing again what was."""

from collections.abc import Iterator
from functools import partial

from pymongo import UpdateOne

from chassis import outbox
from chassis.errors import invalid
from chassis.events import PARTITIONS, Envelope, from_document
from chassis.store import Document
from chassis.work import Work
from operate.desk import Desk, Wanted, chunks


def waiting(desk: Desk) -> Iterator[Envelope]:
    """Events not yet published, oldest first, at most a thousand transactions."""
    rows = outbox.pending(desk.store, range(PARTITIONS))
    yield from (from_document(one) for row in rows for one in row["events"])


def replay(desk: Desk, wanted: Wanted) -> int:
    """Publishes events of the last seven days again; returns how many rows. Who has handled them drops them.

    Events of one transaction and partition share a row and go together.
    """
    count = 0
    for some in chunks(_rows(desk, wanted)):
        envelopes = [from_document(one) for row in some for one in row["events"]]
        desk.audited("crm outbox replay", envelopes, partial(_pending, some=some))
        count += len(some)
    return count


def _rows(desk: Desk, wanted: Wanted) -> Iterator[Document]:
    for row in desk.store[outbox.COLLECTION].find(_where(wanted)):
        if row["state"] == "published" and any(wanted.fits(from_document(one)) for one in row["events"]):
            yield row


def _where(wanted: Wanted) -> Document:
    """What an index can find: a record's events, or those published since something happened."""
    if wanted.record:
        return {"keys": {"$gte": f"{wanted.record}:", "$lt": f"{wanted.record};"}}
    if wanted.since is None:
        raise invalid("since", "say since when, or of which record: the outbox holds seven days")
    return {"published": {"$gte": wanted.since}}


def _pending(work: Work, *, some: list[Document]) -> None:
    for row in some:
        change = {"$set": {"state": "pending"}, "$unset": {"published": ""}}
        work.write(outbox.COLLECTION, UpdateOne({"_id": row["_id"], "state": "published"}, change))
