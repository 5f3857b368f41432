"""What one transaction may do. Commands take a `Work` first; what they ask of it happens together or not at all."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from google.protobuf.message import Message
from pymongo import DeleteOne, ReplaceOne, UpdateOne

from chassis import outbox, timers
from chassis.errors import Conflict
from chassis.events import Envelope, seal, uuid7
from chassis.identity import Caller
from chassis.reads import Reader
from chassis.store import Collection, Document, Index, Schema, Session, Store

M = TypeVar("M", bound=Message)
T = TypeVar("T")
AUDIT = "audit"
SCHEMA: Schema = {AUDIT: (Index("changes.aggregate_id, _id"), Index("subject, at"))}
Write = ReplaceOne[Document] | DeleteOne | UpdateOne


@dataclass
class Work:
    """Changes and events are collected and sent as few bulk commands: before the next read, and at the end.

    A record and its events are written by one call, so no state can change without its event. `version` is the
    number of the record's last event: rules raise it by one for every event they make.
    """

    store: Store
    session: Session
    source: str
    caller: Caller
    now: datetime
    occurred: datetime | None = None  # when the event that is being handled happened
    traceparent: str = ""
    operation: str = ""
    request_id: str = ""
    events: list[Envelope] = field(default_factory=list)
    _inserts: dict[str, list[Document]] = field(default_factory=lambda: defaultdict(list))
    _certain: dict[str, list[Write]] = field(default_factory=lambda: defaultdict(list))
    _writes: dict[str, list[Write]] = field(default_factory=lambda: defaultdict(list))
    _counts: dict[str, dict[str, Document]] = field(default_factory=lambda: defaultdict(dict))
    _changed: dict[tuple[str, str], Message | None] = field(default_factory=dict)

    @property
    def reader(self) -> Reader:
        """Reads as of the transaction's snapshot, with the changes made in this work: they are sent before."""
        self.send()
        return Reader(self.store, self.session)

    def new_id(self) -> str:
        """A new identifier, ordered by time."""
        return uuid7(self.now)

    def get(self, collection: Collection[M], key: str, *, version: int = 0) -> M:
        """The record under this key as this work sees it; raises `NotFound`, or `Conflict` at another version."""
        changed = self._changed.get((collection.name, key))
        found = changed if isinstance(changed, collection.kind) else self.reader.get(collection, key)
        if version and version != found.version:  # type: ignore[attr-defined]
            raise Conflict("this was changed since you read it; read it again", reason="VERSION_MISMATCH")
        return found

    def insert(self, collection: Collection[M], message: M, *events: Message, document: Document | None = None) -> None:
        """Adds a new record with the events that made it; `document` is the stored form, where it is made already."""
        self._publish(collection, message, events, expected=0)
        self._inserts[collection.name].append(document or collection.document(message))

    def replace(self, collection: Collection[M], message: M, *events: Message) -> None:
        """Writes a changed record with the events that changed it; a lost race leaves as `Conflict`."""
        expected: int = message.version - len(events)  # type: ignore[attr-defined]
        self._publish(collection, message, events, expected=expected)
        key: str = getattr(message, collection.key)
        write = ReplaceOne({"_id": key, "version": expected}, collection.document(message))
        self._certain[collection.name].append(write)

    def _publish(self, collection: Collection[M], message: M, events: tuple[Message, ...], *, expected: int) -> None:
        version: int = message.version  # type: ignore[attr-defined]
        if not events or version != expected + len(events):
            raise ValueError(f"{collection.name}: version {version} does not count its events")
        for offset, event in enumerate(events, expected + 1):
            self.events.append(seal(event, seq=offset, source=self.source, now=self.now, traceparent=self.traceparent))
        self._changed[collection.name, getattr(message, collection.key)] = message

    def put(self, name: str, *documents: Document) -> None:
        """Adds technical documents that no event tells of: rejected rows, facts, counters."""
        self._inserts[name] += documents

    def write(self, name: str, write: Write, *, certain: bool = False) -> None:
        """Adds any single write; with `certain`, finding nothing to change fails the whole work."""
        (self._certain if certain else self._writes)[name].append(write)

    def count(self, name: str, key: str, *, by: int = 1, fixed: Document, latest: Document | None = None) -> None:
        """Adds to the counter document `key`: `by` to its `count`, `fixed` at its birth, the later of each `latest`."""
        before = self._counts[name].get(key, {"by": 0, "fixed": fixed, "latest": {}})
        merged = {at: max(value, before["latest"].get(at, value)) for at, value in (latest or {}).items()}
        self._counts[name][key] = {"by": before["by"] + by, "fixed": fixed, "latest": before["latest"] | merged}

    def schedule(self, kind: str, key: str, at: datetime, payload: Document | None = None) -> None:
        """Sets the timer `key` of this kind to an instant, or moves it there."""
        self.write(timers.COLLECTION, timers.scheduled(kind, key, at, payload or {}))

    def cancel(self, kind: str, key: str) -> None:
        """Removes a timer; nothing happens where there is none."""
        self.write(timers.COLLECTION, timers.cancelled(kind, key))

    def flush(self) -> None:
        """Sends what is left, the events and the audit entry, inside the transaction."""
        self.send()
        if self.events:
            self.store[outbox.COLLECTION].insert_many(outbox.rows(self.events), session=self.session)
            self.store[AUDIT].insert_one(self.audit_entry(self.events), session=self.session)

    def send(self) -> None:
        """Sends the changes collected so far, as few bulk commands: those that come later find them done."""
        for name, documents in _taken(self._inserts):
            self.store[name].insert_many(documents, session=self.session)
        for name, writes in _taken(self._certain):
            done = self.store[name].bulk_write(writes, session=self.session)
            if done.matched_count + done.deleted_count != len(writes):
                raise Conflict("somebody else changed this at the same time", reason="VERSION_MISMATCH")
        for name, counts in _taken(self._counts):
            self._writes[name] += [_counted(key, one) for key, one in sorted(counts.items())]
        for name, writes in _taken(self._writes):
            self.store[name].bulk_write(writes, session=self.session)

    def audit_entry(self, envelopes: Iterable[Envelope]) -> Document:
        """Who changed what, when and how; no values, so that it may be kept when they must go."""
        changes = [{"aggregate_id": one.aggregate_id, "type": one.type, "seq": one.seq} for one in envelopes]
        return {
            "_id": self.new_id(),
            "at": self.now,
            "subject": self.caller.subject,
            "channel": self.caller.channel,
            "roles": list(self.caller.roles),
            "operation": self.operation,
            "request_id": self.request_id,
            "traceparent": self.traceparent,
            "changes": changes,
        }


def _taken(collected: dict[str, T]) -> list[tuple[str, T]]:
    """What was collected, by collection; nothing is left of it."""
    found = list(collected.items())
    collected.clear()
    return found


def _counted(key: str, one: Document) -> UpdateOne:
    change = {"$inc": {"count": one["by"]}, "$setOnInsert": one["fixed"]}
    return UpdateOne({"_id": key}, change | ({"$max": one["latest"]} if one["latest"] else {}), upsert=True)
