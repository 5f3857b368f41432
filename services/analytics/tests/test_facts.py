import random
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from crm.analytics.v1 import analytics_pb2
from crm.customer.v1 import customer_pb2, events_pb2

from analytics import __main__ as wiring
from analytics import commands, queries, rpc
from analytics.store import FACTS, FRESHNESS, TOTALS
from chassis import inbox, testing
from chassis.errors import NotFound
from chassis.events import Envelope, seal
from chassis.inbox import Inbox
from chassis.reads import Reader
from chassis.store import Store
from chassis.work import Work

START = datetime(2026, 5, 1, 23, 0, tzinfo=UTC)
SECRET = "13800138000"


@pytest.fixture
def store(open_store) -> Store:
    return open_store(wiring.service().whole_schema)


def box(store: Store) -> Inbox:
    def begin(session, operation: str) -> Work:
        caller = testing.somebody(subject="service:analytics")
        return Work(store=store, session=session, source="analytics", caller=caller, now=datetime.now(UTC))

    return Inbox(store, {}, begin, commands.take_in)


def take(store: Store, *envelopes: Envelope) -> None:
    inbox.receive(box(store), [(one, False) for one in envelopes])


def customer(number: int, **fields) -> customer_pb2.Customer:
    given = {"customer_id": f"c{number}", "kind": "CUSTOMER_KIND_PERSON", "status": "CUSTOMER_STATUS_ACTIVE"}
    return customer_pb2.Customer(**given, source="WEB", phones=[{"number": SECRET}], **fields)


def history(number: int) -> list[Envelope]:
    """A customer that registers, changes, makes contact twice around midnight, and is archived."""
    registered = events_pb2.CustomerRegistered(customer=customer(number))
    updated = events_pb2.CustomerUpdated(customer=customer(number))
    archived = events_pb2.CustomerArchived(customer=customer(number), reason="moved away")
    contacts = [customer_pb2.Contact(channel=one, summary="talked") for one in ("CHANNEL_WEB", "CHANNEL_STORE")]
    opened = customer_pb2.Interaction(interaction_id=f"i{number}", customer_id=f"c{number}", contacts=contacts[:1])
    continued = customer_pb2.Interaction(interaction_id=f"i{number}", customer_id=f"c{number}", contacts=contacts)
    numbered = [
        (registered, 1, 0),
        (updated, 2, 10),
        (archived, 3, 90),
        (events_pb2.InteractionOpened(interaction=opened), 1, 20),
        (events_pb2.InteractionContinued(interaction=continued), 2, 80),
    ]
    return [
        seal(event, seq=seq, source="customer", now=START + timedelta(minutes=minutes), traceparent="")
        for event, seq, minutes in numbered
    ]


def summary(store: Store, as_of: datetime | None = None) -> analytics_pb2.GetSummaryResponse:
    request = analytics_pb2.GetSummaryRequest()
    if as_of is not None:
        request.as_of.FromDatetime(as_of)
    return queries.get_summary(Reader(store), request)


def test_facts_count_once_however_often_and_in_whatever_order_events_come(store: Store) -> None:
    stream = [one for number in range(12) for one in history(number)] * 2
    random.Random(7).shuffle(stream)
    for start in range(0, len(stream), 25):
        take(store, *stream[start : start + 25])
    found = summary(store)
    assert (found.customers, found.archived, found.interactions, found.contacts) == (12, 12, 12, 24)
    assert dict(found.contacts_by_channel) == {"WEB": 12, "STORE": 12}
    assert store[FACTS.name].count_documents({}) == 60
    assert sum(one["count"] for one in store[FRESHNESS].find({})) == 60


def test_workers_of_different_partitions_do_not_wait_for_each_other(store: Store) -> None:
    one, other = history(1)[0], next(found[0] for n in range(2, 99) if (found := history(n))[0].partition == 3)
    assert one.partition != other.partition
    rounds = []

    def meanwhile(work: Work, envelope: Envelope) -> None:
        commands.take_in(work, envelope)
        work.send()
        rounds.append(envelope.event_id)
        if len(rounds) == 1:
            take(store, other)  # counts the same measure of the same day, and is committed first

    inbox.receive(Inbox(store, {}, box(store).begin, meanwhile), [(one, False)])
    assert rounds == [one.event_id]
    assert summary(store).customers == 2


def counted(store: Store) -> list[list]:
    """Everything that is made of the log."""
    return [sorted(store[name].find({}), key=lambda one: one["_id"]) for name in (TOTALS, FRESHNESS)]


def test_a_rebuild_from_the_log_gives_the_identical_state(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    take(store, *(one for number in range(5) for one in history(number)))
    before = counted(store)
    for name in (TOTALS, FRESHNESS):
        store[name].delete_many({})
    monkeypatch.setattr(commands, "BATCH", 2)
    monkeypatch.setattr(commands, "MOST_WAITING", 10)
    assert commands.rebuild(store) == 25
    assert counted(store) == before
    assert all(before)


def test_what_a_rebuild_that_was_broken_off_left_does_not_count(store: Store) -> None:
    take(store, *history(1))
    before = counted(store)
    for name in (TOTALS, FRESHNESS):
        store[f"{name}_rebuilt"].insert_one({"_id": "left", "period": "day 2026-05-01", "count": 7})
    commands.rebuild(store)
    assert counted(store) == before


def test_a_rebuild_of_nothing_leaves_nothing(store: Store) -> None:
    assert commands.rebuild(store) == 0
    assert counted(store) == [[], []]


def test_totals_are_answered_as_of_an_instant_across_midnight(store: Store) -> None:
    take(store, *history(1))
    before, at_midnight, after = (summary(store, START + timedelta(minutes=one)) for one in (15, 60, 85))
    assert (before.customers, before.contacts, before.archived) == (1, 0, 0)
    assert (at_midnight.contacts, at_midnight.archived) == (1, 0)
    assert (after.contacts, after.archived) == (2, 0)
    assert summary(store, START - timedelta(seconds=1)).customers == 0


def scattered(moments: list[datetime]) -> list[Envelope]:
    """A contact at each of these moments."""
    contacts = [customer_pb2.Contact(channel="CHANNEL_WEB")]
    talks = [customer_pb2.Interaction(interaction_id=f"i{n}", contacts=contacts) for n in range(len(moments))]
    return [
        seal(events_pb2.InteractionOpened(interaction=talk), seq=1, source="customer", now=moment, traceparent="")
        for talk, moment in zip(talks, moments, strict=True)
    ]


def test_an_instant_among_days_hours_and_minutes_divides_events_exactly(store: Store) -> None:
    picked = random.Random(11)
    gaps = [picked.choice((1, 999, 1000, 59_999, 60_000, 3_599_999, 3_600_000, 86_400_000)) for _ in range(120)]
    moments = [START + timedelta(milliseconds=sum(gaps[:n])) for n in range(len(gaps))]
    take(store, *scattered(moments))
    for as_of in picked.sample(moments, 25):
        for instant in (as_of - timedelta(milliseconds=1), as_of, as_of.replace(second=0, microsecond=0)):
            assert summary(store, instant).contacts == sum(moment <= instant for moment in moments)


def test_of_a_busy_day_only_the_last_minute_is_read_from_the_facts(store: Store) -> None:
    take(store, *history(1), *history(2))
    as_of = START + timedelta(minutes=90, seconds=30)
    before = summary(store, as_of)
    gone = store[FACTS.name].delete_many({"occurred_time": {"$lt": as_of.replace(second=0, microsecond=0)}})
    assert gone.deleted_count == 8
    assert summary(store, as_of) == before
    assert before.archived == 2


def peak_of(read) -> int:
    """The most bytes that were held at a time while `read` ran."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_facts_are_read_a_page_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "PAGE", 50)
    start, documents = START.replace(second=1), []
    for one in scattered([start + timedelta(milliseconds=n) for n in range(3000)]):
        documents.append(FACTS.document(commands.fact_of(one, START)) | {"customer_id": "c1"})
    store[FACTS.name].insert_many(documents)
    found = {}
    request = analytics_pb2.GetCustomerFactRequest(customer_id="c1")
    peaks = (
        peak_of(lambda: found.update(minute=summary(store, start + timedelta(seconds=30)))),
        peak_of(lambda: found.update(customer=queries.get_customer_fact(Reader(store), request).fact)),
    )
    assert found["minute"].contacts == found["customer"].contacts == 3000
    assert max(peaks) < 250_000, peaks


def test_a_customer_is_answered_as_of_an_instant(store: Store) -> None:
    take(store, *history(1))
    request = analytics_pb2.GetCustomerFactRequest(customer_id="c1")
    now = queries.get_customer_fact(Reader(store), request).fact
    request.as_of.FromDatetime(START + timedelta(minutes=30))
    then = queries.get_customer_fact(Reader(store), request).fact
    assert (now.version, now.contacts) == (3, 2)
    assert (then.version, then.contacts) == (2, 1)


def test_nothing_personal_is_kept(store: Store) -> None:
    take(store, *history(1))
    stored = b"".join(one["event"] for one in store[FACTS.name].find({}))
    assert b"c1" in stored
    assert not any(secret in stored for secret in (SECRET.encode(), b"talked", b"moved away"))


def test_a_pipeline_that_stands_still_shows(store: Store) -> None:
    assert queries.get_freshness(Reader(store), analytics_pb2.GetFreshnessRequest()).age_seconds == 0
    now = datetime.now(UTC)
    take(store, *scattered([now - timedelta(seconds=2)]))
    an_hour_ago = {"$set": {"recorded": now - timedelta(hours=1), "occurred": now - timedelta(hours=1, seconds=2)}}
    store[FRESHNESS].update_many({}, an_hour_ago)
    fresh = queries.get_freshness(Reader(store), analytics_pb2.GetFreshnessRequest())
    assert fresh.lag_seconds == pytest.approx(2)
    assert fresh.age_seconds == pytest.approx(3600, abs=60)


def test_freshness_and_unknown_customers_are_answered_over_the_wire(store: Store) -> None:
    take(store, *history(1))
    with testing.serving("analytics", store, rpc.endpoints()) as client:
        fresh = client.call(analytics_pb2.GetFreshnessRequest())
        assert fresh.facts == 5
        assert fresh.occurred_time.ToDatetime(UTC) == START + timedelta(minutes=90)
        assert fresh.lag_seconds > 0
        assert 0 <= fresh.age_seconds < 60
        with pytest.raises(NotFound):
            client.call(analytics_pb2.GetCustomerFactRequest(customer_id="nobody"))
