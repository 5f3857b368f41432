"""Taking facts in, and building again what was counted from them."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from crm.analytics.v1 import analytics_pb2

from analytics import rules
from analytics.store import FACTS, FRESHNESS, TOTALS, TOTALS_INDEXES
from chassis import contract, events, privacy
from chassis.events import Envelope
from chassis.reads import Reader
from chassis.store import Document, Store
from chassis.work import Work

BATCH = 1000


def take_in(work: Work, envelope: Envelope) -> None:
    """Adds one event to the log and to the totals, without anything that identifies a person."""
    event = envelope.message()
    privacy.strip(event)
    fact = analytics_pb2.Fact(
        event_id=envelope.event_id,
        type=envelope.type,
        aggregate_id=envelope.aggregate_id,
        aggregate_seq=envelope.seq,
        customer_id=rules.customer_of(event),
        event=event.SerializeToString(),
    )
    fact.occurred_time.FromDatetime(envelope.occurred)
    fact.recorded_time.FromDatetime(work.now)
    work.put(FACTS.name, FACTS.document(fact))
    for place, count in _counts([fact]).items():
        work.count(TOTALS, _key(place), by=count, fixed=_total(place))
    times = {"occurred": envelope.occurred, "recorded": work.now}
    work.count(FRESHNESS, str(envelope.partition), fixed={}, latest=times)


Place = tuple[str, rules.Measure, int]  # where something is counted: day, measure, partition


def _counts(facts: list[analytics_pb2.Fact]) -> Counter[Place]:
    found: Counter[Place] = Counter()
    for fact in facts:
        day, number = rules.day_of(fact.occurred_time.ToDatetime()), events.partition(fact.aggregate_id)
        found.update((day, measure, number) for measure in rules.measures(event_of(fact)))
    return found


def _key(place: Place) -> str:
    day, measure, number = place
    return f"{day}|{measure.name}|{measure.of}|{number}"


def _total(place: Place) -> Document:
    day, measure, _number = place
    return {"day": day, "measure": measure.name, "of": measure.of}


def event_of(fact: analytics_pb2.Fact) -> Any:
    """The event a fact holds."""
    return contract.events()[fact.type].FromString(fact.event)


def rebuild(store: Store) -> int:
    """Counts everything again from the log and puts the result in place in one step; returns the facts read.

    Facts that arrive meanwhile would be missed, so it is run while no worker takes events in.
    """
    fresh = store[f"{TOTALS}_rebuilt"]
    fresh.drop()
    counts: Counter[Place] = Counter()
    read = 0
    for batch in _log(store):
        counts.update(_counts(batch))
        read += len(batch)
    for index in TOTALS_INDEXES:
        fresh.create_index(index.pairs, name=index.name)
    if counts:
        fresh.insert_many([{"_id": _key(place), "count": count, **_total(place)} for place, count in counts.items()])
    fresh.rename(TOTALS, dropTarget=True)
    return read


def _log(store: Store) -> Iterator[list[analytics_pb2.Fact]]:
    token, reader = "", Reader(store)
    while True:
        batch, token = reader.page(FACTS, {}, by="_position", size=BATCH, token=token)
        yield batch
        if not token:
            return


def totals(store: Store) -> list[Document]:
    """Every total, in a fixed order."""
    return sorted(store[TOTALS].find({}), key=lambda one: str(one["_id"]))
