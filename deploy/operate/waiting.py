"""Events that a consumer has set aside: to look at, to mend, to try again, or to leave out."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from google.protobuf.message import Message
from pymongo import UpdateOne

from chassis import codec, contract, inbox, parked, privacy
from chassis.errors import Conflict, NotFound, invalid
from chassis.events import Envelope, from_document
from chassis.identity import Caller
from chassis.inbox import Inbox
from chassis.store import Document, Session, transact
from chassis.work import Work
from operate.desk import Desk, Wanted, chunks

STATES = ("dead", "failed", "early", "due", "trying")
REPLAYABLE = ["dead", "failed"]


def found(desk: Desk, wanted: Wanted, states: tuple[str, ...] = STATES) -> Iterator[Document]:
    """The parked events that are meant, in the order they happened."""
    where: Document = {"state": {"$in": list(states)}}
    if wanted.ids:
        where = {"_id": {"$in": list(wanted.ids)}, **where}
    elif wanted.record:
        where = {"aggregate_id": wanted.record, **where}
    rows = sorted(desk.store[parked.COLLECTION].find(where), key=lambda row: (row["occurred"], row["seq"]))
    return (row for row in rows if wanted.fits(from_document(row["envelope"])))


def row(desk: Desk, event_id: str) -> Document:
    """One parked event; raises `NotFound`."""
    one = desk.store[parked.COLLECTION].find_one({"_id": event_id})
    if one is None:
        raise NotFound(f"{desk.service} has no event {event_id} waiting")
    return one


def shown(desk: Desk, event_id: str, *, clear: bool) -> dict[str, Any]:
    """A parked event whole, its personal data masked unless `clear`, which is audited."""
    one = row(desk, event_id)
    envelope = from_document(one.pop("envelope"))
    message = envelope.message()
    if clear:
        desk.audited("crm events show", [envelope], lambda _work: None)
    else:
        privacy.mask(message, Caller(subject="", sees=privacy.EVERYTHING - {privacy.PERSONAL, privacy.SENSITIVE}))
    return one | {"source": envelope.source, "traceparent": envelope.traceparent, "event": codec.to_json(message)}


def replay(desk: Desk, wanted: Wanted) -> int:
    """Lets dead and failed events be tried again now, with all their tries; returns how many."""
    count = 0
    for some in chunks(found(desk, wanted, ("dead", "failed"))):
        envelopes = [from_document(one["envelope"]) for one in some]
        desk.audited("crm events replay", envelopes, partial(_release, some=some))
        count += len(some)
    return count


def _release(work: Work, *, some: list[Document], **changes: Any) -> None:
    for one in some:
        again = {"state": "due", "next": parked.AT_ONCE, "attempts": 0, "deliveries": 0, **changes}
        where = {"_id": one["_id"], "state": {"$in": REPLAYABLE}}
        work.write(parked.COLLECTION, UpdateOne(where, {"$set": again}), certain=True)


def fix(desk: Desk, event_id: str, body: Any) -> None:
    """Gives a parked event another body (JSON as its contract says) and lets it be tried; raises `Invalid`."""
    one = row(desk, event_id)
    if one["state"] not in REPLAYABLE:
        raise Conflict(f"event {event_id} is {one['state']}: only one that failed can be mended")
    before = from_document(one["envelope"])
    after = Envelope(**{**before.document(), "body": _mended(before, body).SerializeToString()})
    desk.audited("crm events fix", [after], partial(_release, some=[one], envelope=after.document()))


def _mended(before: Envelope, body: Any) -> Message:
    message = codec.from_json(contract.events()[before.type], body)
    options = contract.event_options(message.DESCRIPTOR)
    assert options is not None
    if str(contract.read(message, options.key)) != before.aggregate_id:
        raise invalid(options.key, "must stay: the event belongs to this record")
    contract.validate(message)
    return message


def drop(desk: Desk, wanted: Wanted) -> int:
    """Leaves dead and failed events out for good, as if their handlers had nothing to do; returns how many.

    Raises `Conflict` for one that is not the next of its record: those before it come first.
    """
    count = 0
    for one in list(found(desk, wanted, ("dead", "failed"))):
        _leave_out(desk, from_document(one["envelope"]))
        count += 1
    return count


def _leave_out(desk: Desk, envelope: Envelope) -> None:
    def body(session: Session) -> None:
        work = desk.begin(session, "crm events drop")
        if inbox.position(work, envelope.aggregate_id) + 1 < envelope.seq:
            raise Conflict(
                f"event {envelope.event_id} is not the next of {envelope.aggregate_id}: see what comes first"
            )
        desk.note(work, [envelope])
        inbox.apply(Inbox(desk.store, {}, desk.begin), work, [envelope], waiting={envelope.event_id}, follow=False)
        work.flush()

    transact(desk.store, body)
