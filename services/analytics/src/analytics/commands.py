"""Taking facts in, and building again what was counted from them."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from crm.analytics.v1 import analytics_pb2

from analytics import rules
from analytics.store import FACTS, FRESHNESS, NEWEST, TOTALS, TOTALS_INDEXES
from chassis import contract, privacy
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
    for (day, measure), count in _counts([fact]).items():
        work.count(TOTALS, _total_key(day, measure), by=count, fixed=_total(day, measure))
    times = {"occurred": envelope.occurred, "recorded": work.now}
    work.count(FRESHNESS, NEWEST, fixed={}, latest=times)


def _counts(facts: list[analytics_pb2.Fact]) -> Counter[tuple[str, rules.Measure]]:
    found: Counter[tuple[str, rules.Measure]] = Counter()
    for fact in facts:
        day = rules.day_of(fact.occurred_time.ToDatetime())
        found.update((day, measure) for measure in rules.measures(event_of(fact)))
    return found


def _total_key(day: str, measure: rules.Measure) -> str:
    return f"{day}|{measure.name}|{measure.of}"


def _total(day: str, measure: rules.Measure) -> Document:
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
    counts: Counter[tuple[str, rules.Measure]] = Counter()
    read = 0
    for batch in _log(store):
        counts.update(_counts(batch))
        read += len(batch)
    for index in TOTALS_INDEXES:
        fresh.create_index(index.pairs, name=index.name)
    if counts:
        fresh.insert_many([_rebuilt(day, measure, count) for (day, measure), count in counts.items()])
    fresh.rename(TOTALS, dropTarget=True)
    return read


def _rebuilt(day: str, measure: rules.Measure, count: int) -> Document:
    return {"_id": _total_key(day, measure), "count": count, **_total(day, measure)}


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
