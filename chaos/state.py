"""What the platform's databases hold once all is quiet, as plain rows for the checker."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from analytics.store import FACTS
from chaos import witness
from chassis import contract, events, inbox, outbox, parked, timers, work
from chassis.store import Collection, Document, Store
from customer.store import CUSTOMERS, INTERACTIONS


@dataclass(frozen=True)
class Event:
    """One event of the outbox: `marker` names the call it should come from, `holds` the record after it."""

    event_id: str
    type: str
    aggregate_id: str
    seq: int
    marker: str
    holds: bytes
    published: bool


@dataclass
class State:
    """Everything there is to compare. `effects` are the witness's rows (event id, aggregate, seq, place)."""

    events: list[Event] = field(default_factory=list)
    records: dict[str, bytes] = field(default_factory=dict)
    audited: list[tuple[str, int]] = field(default_factory=list)
    handled: dict[str, list[str]] = field(default_factory=dict)
    parked: dict[str, list[str]] = field(default_factory=dict)
    effects: list[tuple[str, str, int, int]] = field(default_factory=list)
    counters: dict[str, tuple[int, int]] = field(default_factory=dict)
    rung: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    fact_count: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    rebuilt: dict[str, int] = field(default_factory=dict)


def read(open_store: Callable[[str], Store], consumers: list[str]) -> State:
    """The state now; `open_store` opens a service's database."""
    customer, found = open_store("customer"), State()
    found.events = [one for row in customer[outbox.COLLECTION].find({}) for one in _events(row)]
    for collection in (CUSTOMERS, INTERACTIONS):
        found.records |= dict(_records(customer, collection))
    found.audited = [
        (change["aggregate_id"], change["seq"]) for row in customer[work.AUDIT].find({}) for change in row["changes"]
    ]
    for name in consumers:
        consumer = open_store(name)
        found.handled[name] = [row["_id"] for row in consumer[inbox.HANDLED].find({}, {"_id": 1})]
        rows = consumer[parked.COLLECTION].find({})
        found.parked[name] = [f"{row['_id']} {row['state']} {row.get('error', '')}" for row in rows]
    _witnessed(open_store("witness"), found)
    if "analytics" in consumers:
        _analysed(open_store("analytics"), found)
    return found


def _events(row: Document) -> Iterator[Event]:
    for stored in row["events"]:
        one = events.from_document(stored)
        message = one.message()
        options = contract.event_options(message.DESCRIPTOR)
        assert options is not None
        record = getattr(message, options.aggregate, None)
        held = record.SerializeToString(deterministic=True) if record is not None else b""
        published = row["state"] == "published"
        yield Event(one.event_id, one.type, one.aggregate_id, one.seq, _marker(message), held, published)


def _marker(message: Any) -> str:
    """The mark a call left in the event it caused."""
    kind = message.DESCRIPTOR.name
    if kind == "CustomerRegistered":
        return str(message.customer.service_numbers[0])
    if kind == "CustomerUpdated":
        return str(message.customer.interests[0])
    if kind in ("InteractionOpened", "InteractionContinued"):
        return str(message.interaction.contacts[-1].summary)
    return ""


def _records(store: Store, collection: Collection[Any]) -> Iterator[tuple[str, bytes]]:
    for document in store[collection.name].find({}):
        message = collection.message(document)
        yield str(document["_id"]), message.SerializeToString(deterministic=True)


def _witnessed(store: Store, found: State) -> None:
    names = ("event_id", "aggregate_id", "seq", "place")
    found.effects = [tuple(row[name] for name in names) for row in store[witness.LEDGER].find({})]
    found.counters = {row["_id"]: (row["count"], row["sum"]) for row in store[witness.RECORDS].find({})}
    found.rung = [row["key"] for row in store[witness.RUNG].find({})]


def _analysed(store: Store, found: State) -> None:
    found.facts = [row["_id"] for row in store[FACTS.name].find({}, {"_id": 1})]
    found.fact_count = sum(partition["count"] for partition in store["freshness"].find({}))
    found.totals = totals(store)


def totals(store: Store) -> dict[str, int]:
    """What analytics has counted."""
    return {row["_id"]: row["count"] for row in store["totals"].find({})}


def quiet(open_store: Callable[[str], Store], consumers: list[str], *, seconds: float) -> tuple[float, str]:
    """Waits until nothing is on its way any more; returns how long that took and what was left at the end."""
    started, left = time.monotonic(), "not looked"
    while left and time.monotonic() - started < seconds:
        left = pending(open_store, consumers)
        if left:
            time.sleep(0.5)
    return time.monotonic() - started, left


def pending(open_store: Callable[[str], Store], consumers: list[str]) -> str:
    """What is still on its way; empty when nothing is."""
    customer, done = open_store("customer"), open_store("witness")
    if customer[outbox.COLLECTION].find_one({"state": "pending"}):
        return "events in the outbox"
    sent = sum(len(row["events"]) for row in customer[outbox.COLLECTION].find({}, {"events.seq": 1}))
    for name in consumers:
        consumer = open_store(name)
        waiting = {row["state"] for row in consumer[parked.COLLECTION].find({}, {"state": 1})} - {"dead"}
        if waiting:
            return f"events that are {', '.join(sorted(waiting))} in {name}"
        handled = sum(1 for _ in consumer[inbox.HANDLED].find({}, {"_id": 1}))
        if handled < sent:
            return f"{sent - handled} events on their way to {name}"
    if done[timers.COLLECTION].find_one({"kind": "ring"}):
        return "timers of the witness"
    return ""
