"""Deliberate breaks of the chassis: a checker that does not find them proves nothing.

Each is a mistake somebody could make, with its window made wide enough for a short run to meet it. They are planted in
processes of a chaos run only, by `chaos.started`.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pika
from pymongo.errors import DuplicateKeyError

from chassis import broker, events, idempotency, inbox, outbox, parked, store, timers
from chassis.broker import Delivery
from chassis.events import Envelope
from chassis.inbox import Inbox
from chassis.store import Store
from chassis.work import Work

WINDOW_SECONDS = 0.15
STUMBLING = 23


@dataclass(frozen=True)
class Bug:
    """One break: what it does wrong, how it is planted, and which faults bring it to light."""

    wrong: str
    plant: Callable[[], None]
    faults: tuple[str, ...]
    targets: str = ""  # how the names of what they hit begin


def _replace(where: Any, **parts: Any) -> None:
    for name, part in parts.items():
        setattr(where, name, part)


def _window() -> None:
    time.sleep(WINDOW_SECONDS)


# --- consumers -------------------------------------------------------------------------------------------------------


def _acknowledge_before_commit() -> None:
    take = inbox._take

    def broken(box: Inbox, batch: list[Delivery], settle: inbox.Settle, stop: threading.Event) -> None:
        settle(batch)
        _window()
        take(box, batch, lambda _settled: None, stop)

    _replace(inbox, _take=broken)


def _inbox_outside_the_transaction() -> None:
    together = inbox.together

    def broken(box: Inbox, envelopes: list[Envelope], *, waiting: set[str], follow: bool = True) -> None:
        ids = [one.event_id for one in envelopes]
        before = {row["_id"] for row in box.store[inbox.HANDLED].find({"_id": {"$in": ids}})}
        together(replace(box, every=None), envelopes, waiting=waiting, follow=follow)
        after = {row["_id"] for row in box.store[inbox.HANDLED].find({"_id": {"$in": ids}})}
        _window()
        fresh = [one for one in envelopes if one.event_id in after - before]
        store.transact(box.store, lambda session: _effects(box, session, fresh))

    _replace(inbox, together=broken)


def _effects(box: Inbox, session: Any, envelopes: Iterable[Envelope]) -> None:
    work = box.begin(session, "event:batch")
    for one in sorted(envelopes, key=lambda envelope: envelope.seq):
        assert box.every is not None
        box.every(work, one)
    work.flush()


def _no_inbox() -> None:
    def broken(box: Inbox, work: Work, envelopes: Iterable[Envelope], *, waiting: set[str], follow: bool) -> None:
        for one in sorted(envelopes, key=lambda envelope: envelope.seq):
            seen = work.store[inbox.HANDLED].find_one({"_id": one.event_id}, session=work.session)
            if seen is None:
                work.put(inbox.HANDLED, {"_id": one.event_id, "handled": work.now})
            if one.event_id in waiting:
                work.write(parked.COLLECTION, parked.leaving(one))
            assert box.every is not None
            box.every(work, one)

    _replace(inbox, apply=broken)


def _early_events_are_applied() -> None:
    def broken(box: Inbox, work: Work, envelope: Envelope, positions: dict[str, int], *, waiting: bool) -> None:
        seen = work.store[inbox.HANDLED].find_one({"_id": envelope.event_id}, session=work.session)
        if seen is None:
            positions[envelope.aggregate_id] = max(envelope.seq, positions.get(envelope.aggregate_id, 0))
            inbox._handle(box, work, envelope)
        if waiting:
            work.write(parked.COLLECTION, parked.leaving(envelope))

    _replace(inbox, _step=broken)


def _failed_events_are_dropped() -> None:
    os.environ["CHAOS_STUMBLES"] = str(STUMBLING)
    _replace(parked, fail=lambda *_args, **_more: None)


# --- the relay -------------------------------------------------------------------------------------------------------


def _marked_before_the_confirm() -> None:
    def broken(opened: Store, batch: list[Any], publisher: outbox.Publisher, _put_off: outbox.Refused) -> int:
        done = {"$set": {"state": "published", "published": events.clock()}}
        opened[outbox.COLLECTION].update_many({"_id": {"$in": [row["_id"] for row in batch]}}, done)
        _window()
        publisher.publish([events.from_document(one) for row in batch for one in row["events"]])
        return len(batch)

    _replace(outbox, _publish=broken)


def _not_mandatory() -> None:
    def broken(publisher: broker.ConfirmedPublisher, *_returned: Any) -> None:
        """What the broker returns is not looked at."""

    _replace(broker.ConfirmedPublisher, _returned=broken)


# --- commands --------------------------------------------------------------------------------------------------------


def _published_before_the_commit() -> None:
    flush, connections = Work.flush, threading.local()

    def broken(work: Work) -> None:
        flush(work)
        for one in work.events:
            properties = pika.BasicProperties(message_id=one.event_id, headers=one.headers())
            _own_channel(connections).basic_publish(broker.EXCHANGE, one.routing_key, one.body, properties)
        _window()

    _replace(Work, flush=broken)


def _own_channel(connections: threading.local) -> Any:
    if not hasattr(connections, "channel"):
        connections.channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
    return connections.channel


def _events_outside_the_transaction() -> None:
    flush, transact, held = Work.flush, store.transact, threading.local()

    def without(work: Work) -> None:
        held.events, work.events = list(work.events), []
        flush(work)

    def broken(opened: Store, body: Any, *, seconds: float = 5.0) -> Any:
        answer = transact(opened, body, seconds=seconds)
        _window()
        if held.events:
            opened[outbox.COLLECTION].insert_many(outbox.rows(held.events))
        return answer

    _replace(Work, flush=without)
    _replace(idempotency, transact=broken)


def _keys_are_ignored() -> None:
    _replace(idempotency, _known=lambda *_: None)
    _replace(idempotency, _reserve=lambda *_: None)


def _keys_are_kept_after_the_commit() -> None:
    reserve, transact, held = idempotency._reserve, store.transact, threading.local()

    def later(opened: Store, session: Any, *record: Any) -> None:
        held.record = record

    def broken(opened: Store, body: Any, *, seconds: float = 5.0) -> Any:
        answer = transact(opened, body, seconds=seconds)
        _window()
        try:
            reserve(opened, None, *held.record)  # type: ignore[arg-type]
        except DuplicateKeyError:
            return answer
        return answer

    _replace(idempotency, _reserve=later)
    _replace(idempotency, transact=broken)


def _answers_are_made_anew() -> None:
    from customer.store import CUSTOMERS

    known = idempotency._known

    def broken(opened: Store, key: str, operation: Any, request: Any) -> Any:
        answer = known(opened, key, operation, request)
        if answer is not None and "customer" in answer.DESCRIPTOR.fields_by_name:
            found = opened[CUSTOMERS.name].find_one({"_id": answer.customer.customer_id})
            answer.customer.CopyFrom(CUSTOMERS.message(found or {}))
        return answer

    _replace(idempotency, _known=broken)


# --- timers ----------------------------------------------------------------------------------------------------------


def _timers_are_deleted_afterwards() -> None:
    def broken(opened: Store, handlers: Any, begin: Any, timer: Any) -> None:
        def body(session: Any) -> None:
            work = begin(session, "timer")
            handlers[timer["kind"]](work, timer["key"], timer["payload"])
            work.flush()

        store.transact(opened, body)
        _window()
        opened[timers.COLLECTION].delete_one({"_id": timer["_id"]})

    _replace(timers, _fire=broken)


BUGS: dict[str, Bug] = {
    "ack-before-commit": Bug(
        "a message is acknowledged before its transaction is committed",
        _acknowledge_before_commit,
        ("kill",),
        "witness",
    ),
    "inbox-outside": Bug(
        "the inbox and the effect are two transactions",
        _inbox_outside_the_transaction,
        ("kill",),
        "witness",
    ),
    "no-inbox": Bug("a message that comes again takes effect again", _no_inbox, ("kill", "cut"), "witness"),
    "early-applied": Bug(
        "an event takes effect before the one before it",
        _early_events_are_applied,
        ("unbind",),
        "partition all",
    ),
    "failed-dropped": Bug(
        "an event whose handler fails is forgotten",
        _failed_events_are_dropped,
        ("kill",),
        "witness",
    ),
    "mark-before-confirm": Bug(
        "the relay marks events published before the broker has them",
        _marked_before_the_confirm,
        ("kill", "broker"),
        "customer-work",
    ),
    "not-mandatory": Bug("events without a queue count as published", _not_mandatory, ("unbind",), "partition all"),
    "publish-before-commit": Bug(
        "events are published by transactions that are aborted",
        _published_before_the_commit,
        ("kill",),
        "customer-serve",
    ),
    "event-outside": Bug(
        "state and event are two transactions",
        _events_outside_the_transaction,
        ("kill",),
        "customer-serve",
    ),
    "key-ignored": Bug("a repeated request is carried out again", _keys_are_ignored, ("cut",), "gateway"),
    "key-after-commit": Bug(
        "a request's key is kept after its commit",
        _keys_are_kept_after_the_commit,
        ("kill", "hole"),
        "customer-serve",
    ),
    "answer-anew": Bug("a repeated request gets another answer", _answers_are_made_anew, ("kill",), "customer-serve"),
    "timer-after": Bug("a timer is deleted after it has fired", _timers_are_deleted_afterwards, ("kill",), "witness"),
}
