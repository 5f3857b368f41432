"""Taking facts in, and building again what was counted from them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from crm.analytics.v1 import analytics_pb2
from pymongo import UpdateOne
from pymongo.collection import Collection as MongoCollection

from analytics import rules
from analytics.store import FACTS, FRESHNESS, TOTALS, TOTALS_INDEXES
from chassis import contract, events, privacy
from chassis.events import Envelope
from chassis.reads import Reader
from chassis.store import Document, Store
from chassis.work import Work

Fact = analytics_pb2.Fact
BATCH = 1000
MOST_WAITING = 20_000  # totals that a rebuild holds in memory


def take_in(work: Work, envelope: Envelope) -> None:
    """Adds one event to the log and to the totals, without anything that identifies a person."""
    fact = fact_of(envelope, work.now)
    work.put(FACTS.name, FACTS.document(fact))
    for place, count in _counts([fact]).items():
        work.count(TOTALS, _key(place), by=count, fixed=_total(place))
    times = {"occurred": envelope.occurred, "recorded": work.now}
    work.count(FRESHNESS, str(envelope.partition), fixed={}, latest=times)


def fact_of(envelope: Envelope, now: datetime) -> Fact:
    """What is kept of an event that arrives now."""
    event = envelope.message()
    privacy.strip(event)
    fact = Fact(
        event_id=envelope.event_id,
        type=envelope.type,
        aggregate_id=envelope.aggregate_id,
        aggregate_seq=envelope.seq,
        customer_id=rules.customer_of(event),
        event=event.SerializeToString(),
    )
    fact.occurred_time.FromDatetime(envelope.occurred)
    fact.recorded_time.FromDatetime(now)
    return fact


def event_of(fact: Fact) -> Any:
    """The event a fact holds."""
    return _kind(fact.type).FromString(fact.event)


@cache  # looking for it among all contracts takes longer than reading a fact
def _kind(name: str) -> Any:
    return contract.events()[name]


# --- counting --------------------------------------------------------------------------------------------------------

Place = tuple[str, tuple[rules.Measure, ...], int]  # where an event is counted: period, what it says, partition


def _counts(facts: Iterable[Fact]) -> Counter[Place]:
    return Counter(place for fact in facts for place in _places(fact))


def _places(fact: Fact) -> Iterator[Place]:
    said, number = tuple(rules.measures(event_of(fact))), events.partition(fact.aggregate_id)
    if said:
        yield from ((period, said, number) for period in rules.periods(fact.occurred_time.ToDatetime()))


def _key(place: Place) -> str:
    period, said, number = place
    return f"{period}|{','.join(f'{one.name} {one.of}'.strip() for one in said)}|{number}"


def _total(place: Place) -> Document:
    period, said, _number = place
    return {"period": period, "measures": [[one.name, one.of] for one in said]}


# --- building again --------------------------------------------------------------------------------------------------


def rebuild(store: Store) -> int:
    """Makes totals and freshness again from the log and puts each in place in one step; returns the facts read.

    Facts that arrive meanwhile would be missed, so it is run while no worker takes events in.
    """
    totals, freshness = _beside(store, TOTALS), _beside(store, FRESHNESS)
    for index in TOTALS_INDEXES:
        totals.create_index(index.pairs, name=index.name)
    counts: Counter[Place] = Counter()
    partitions: dict[str, Document] = {}
    for batch in _log(store):
        counts.update(_counts(batch))
        for fact in batch:
            _freshen(partitions, fact)
        if len(counts) > MOST_WAITING:
            _send(totals, counts)
    _send(totals, counts)
    if partitions:
        freshness.insert_many(partitions.values())
    totals.rename(TOTALS, dropTarget=True)
    freshness.rename(FRESHNESS, dropTarget=True)
    return sum(one["count"] for one in partitions.values())


def _beside(store: Store, name: str) -> MongoCollection[Document]:
    """An empty collection that is to take the place of `name`; what a broken-off rebuild left is dropped."""
    store[f"{name}_rebuilt"].drop()
    return store.database.create_collection(f"{name}_rebuilt")


def _log(store: Store) -> Iterator[list[Fact]]:
    token, reader = "", Reader(store)
    while True:
        batch, token = reader.page(FACTS, {}, by="_position", size=BATCH, token=token)
        yield batch
        if not token:
            return


def _freshen(partitions: dict[str, Document], fact: Fact) -> None:
    key, times = str(events.partition(fact.aggregate_id)), (fact.occurred_time, fact.recorded_time)
    occurred, recorded = (time.ToDatetime(UTC) for time in times)
    one = partitions.setdefault(key, {"_id": key, "count": 0, "occurred": occurred, "recorded": recorded})
    one["count"] += 1
    one["occurred"], one["recorded"] = max(one["occurred"], occurred), max(one["recorded"], recorded)


def _send(totals: MongoCollection[Document], counts: Counter[Place]) -> None:
    """Adds what was counted; nothing is left of it."""
    writes = [
        UpdateOne({"_id": _key(place)}, {"$inc": {"count": count}, "$setOnInsert": _total(place)}, upsert=True)
        for place, count in counts.items()
    ]
    if writes:
        totals.bulk_write(writes, ordered=False)
    counts.clear()
