"""Events come at least once and in any order; their effects happen once and in the order of their records."""

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from queue import Queue
from threading import Barrier, Event, Thread
from typing import Any

import pytest
from crm.customer.v1 import customer_pb2, events_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import UpdateOne

from chassis import inbox, outbox, parked, testing, timers, work
from chassis.broker import Delivery
from chassis.errors import Unavailable
from chassis.events import Envelope, clock, seal
from chassis.inbox import Inbox
from chassis.store import Collection, Store
from chassis.work import Work

EFFECTS = "effects"
STATES = Collection("states", customer_pb2.Attribute, "key")
SCHEMA = {**inbox.SCHEMA, **outbox.SCHEMA, **work.SCHEMA, **timers.SCHEMA, EFFECTS: (), STATES.name: ()}
UPDATED = events_pb2.AttributeUpdated.DESCRIPTOR.full_name


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store(SCHEMA)


def event(key: str, seq: int) -> Envelope:
    attribute = customer_pb2.Attribute(key=key, version=seq, label=f"label {seq}")
    return seal(events_pb2.AttributeUpdated(attribute=attribute), seq=seq, source="test", now=clock(), traceparent="")


def effect(work: Work, event: Any) -> None:
    """Not idempotent and sensitive to order: a second or early run would show."""
    key, seq = event.attribute.key, event.attribute.version
    work.put(EFFECTS, {"_id": work.new_id(), "key": key, "seq": seq})
    before = work.reader.find_one(STATES, {"_id": key}) or customer_pb2.Attribute()
    work.write(STATES.name, UpdateOne({"_id": key}, {"$set": {"label": f"{before.label}{seq},"}}, upsert=True))


def box(store: Store, handler: Callable[[Work, Any], None] = effect) -> Inbox:
    def begin(session: Any, operation: str) -> Work:
        caller = testing.somebody(subject="service:test")
        return Work(store=store, session=session, source="test", caller=caller, now=datetime.now(UTC))

    return Inbox(store, {UPDATED: handler}, begin)


def receive(store: Store, *envelopes: Envelope, handler: Callable[[Work, Any], None] = effect) -> None:
    inbox.receive(box(store, handler), [(one, False) for one in envelopes])


def effects(store: Store, key: str) -> list[int]:
    return [one["seq"] for one in store[EFFECTS].find({"key": key})]


def state(store: Store) -> dict[str, str]:
    return {one["_id"]: one["label"] for one in store[STATES.name].find({})}


def waiting(store: Store) -> dict[int, str]:
    return {one["seq"]: one["state"] for one in store[parked.COLLECTION].find({})}


def test_ten_copies_at_once_have_one_effect(store: Store) -> None:
    envelope, barrier, errors = event("a", 1), Barrier(10), []

    def run() -> None:
        barrier.wait()
        try:
            receive(store, envelope)
        except Exception as error:
            errors.append(error)

    threads = [Thread(target=run) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    assert effects(store, "a") == [1]
    assert waiting(store) == {}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_shuffled_and_doubled_stream_ends_in_the_state_of_the_ordered_one(store: Store, seed: int) -> None:
    stream = [event(f"r{record}", seq) for record in range(40) for seq in range(1, 26)] * 2
    random.Random(seed).shuffle(stream)
    for start in range(0, len(stream), inbox.BATCH):
        receive(store, *stream[start : start + inbox.BATCH])
    ordered = "".join(f"{seq}," for seq in range(1, 26))
    assert state(store) == {f"r{record}": ordered for record in range(40)}
    assert store[EFFECTS].count_documents({}) == 1000
    assert waiting(store) == {}


def test_an_early_event_waits_for_the_one_before(store: Store) -> None:
    receive(store, event("a", 2), event("a", 3))
    assert (effects(store, "a"), waiting(store)) == ([], {2: "early", 3: "early"})
    receive(store, event("a", 1))
    assert (state(store)["a"], waiting(store)) == ("1,2,3,", {})


def test_what_comes_with_an_event_that_fills_a_gap_is_applied_after_what_waited_for_it(store: Store) -> None:
    receive(store, event("a", 3))
    receive(store, event("a", 1), event("a", 2), event("a", 4), event("a", 5))
    assert (state(store)["a"], waiting(store)) == ("1,2,3,4,5,", {})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_in_any_batches_ends_in_the_state_of_the_ordered_stream(store: Store, data: st.DataObject) -> None:
    for collection in (inbox.HANDLED, inbox.POSITIONS, parked.COLLECTION, STATES.name):
        store[collection].delete_many({})
    stream = data.draw(st.permutations([event(record, seq) for record in "abc" for seq in range(1, 6)]))
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        receive(store, *stream[:size])
        stream = stream[size:]
    assert (state(store), waiting(store)) == (dict.fromkeys("abc", "1,2,3,4,5,"), {})


def test_an_old_event_is_dropped(store: Store) -> None:
    receive(store, event("a", 1), event("a", 2))
    receive(store, event("a", 1))
    assert sorted(effects(store, "a")) == [1, 2]


class Broken(Exception):
    """What a handler fails with."""


def failing(*, on: set[int]) -> Callable[[Work, Any], None]:
    def handler(work: Work, event: Any) -> None:
        if event.attribute.key == "bad" and event.attribute.version in on:
            raise Broken
        effect(work, event)

    return handler


def test_a_failing_event_holds_up_its_own_record_only(store: Store) -> None:
    stream = [event("bad", seq) for seq in (1, 2, 3)] + [event(f"good{one}", 1) for one in range(10)]
    receive(store, *stream, handler=failing(on={2}))
    assert effects(store, "bad") == [1]
    assert waiting(store) == {2: "failed", 3: "early"}
    assert store[EFFECTS].count_documents({}) == 11


def test_a_failed_event_is_tried_again_when_due_and_the_waiting_follow(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(store, *(event("bad", seq) for seq in (1, 2, 3)), handler=failing(on={2}))
    assert inbox.retry_due(box(store)) == 0  # five seconds have not passed
    store[parked.COLLECTION].update_many({"state": "failed"}, {"$set": {"next": clock()}})
    assert [inbox.retry_due(box(store)) for _ in range(3)] == [1, 1, 0]
    assert (state(store)["bad"], waiting(store)) == ("1,2,3,", {})


def test_delays_grow_and_then_the_event_is_dead(store: Store) -> None:
    envelope, delays = event("bad", 1), []
    receive(store, envelope, handler=failing(on={1}))
    for _ in parked.RETRIES:
        one = store[parked.COLLECTION].find_one({"_id": envelope.event_id})
        delays.append((one["next"] - clock()).total_seconds())
        store[parked.COLLECTION].update_one({"_id": envelope.event_id}, {"$set": {"next": clock()}})
        inbox.retry_due(box(store, failing(on={1})))
    dead = store[parked.COLLECTION].find_one({"_id": envelope.event_id})
    assert (dead["state"], dead["attempts"], dead["error"]) == ("dead", 6, "Broken")
    assert all(0.7 * due <= delay <= 1.3 * due for delay, due in zip(delays, parked.RETRIES, strict=True))
    assert inbox.retry_due(box(store)) == 0  # dead waits for a person


def test_a_failing_event_is_blamed_itself_and_not_the_one_it_waited_for(store: Store) -> None:
    receive(store, event("bad", 2), event("bad", 3))
    receive(store, event("bad", 1), handler=failing(on={2}))
    assert effects(store, "bad") == [1]
    assert waiting(store) == {2: "due", 3: "early"}
    assert inbox.retry_due(box(store, failing(on={2}))) == 1
    assert waiting(store) == {2: "failed", 3: "early"}


def test_an_event_that_becomes_early_while_the_one_before_is_handled_is_not_forgotten(store: Store) -> None:
    late = event("a", 2)

    def slow(work: Work, event: Any) -> None:
        if store[parked.COLLECTION].find_one({"_id": late.event_id}) is None:
            receive(store, late)  # another worker, at this very moment
        effect(work, event)

    receive(store, event("a", 1), handler=slow)
    assert (state(store)["a"], waiting(store)) == ("1,2,", {})


def test_a_retry_is_tried_by_one_worker_and_counted_before(store: Store) -> None:
    receive(store, event("bad", 1), handler=failing(on={1}))
    store[parked.COLLECTION].update_many({}, {"$set": {"next": clock()}})
    (one,) = parked.due(store)
    assert parked.claim(store, one) == 2
    assert parked.claim(store, one) == 0  # as the second of two workers that found it at once
    assert inbox.retry_due(box(store)) == 0
    assert store[parked.COLLECTION].find_one({})["attempts"] == 2


def test_a_retry_that_kills_its_worker_every_time_ends_as_dead(store: Store) -> None:
    receive(store, event("bad", 1), handler=failing(on={1}))
    for _ in range(len(parked.RETRIES) + 5):
        store[parked.COLLECTION].update_many({"state": "failed"}, {"$set": {"next": clock()}})
        with suppress(SystemExit):
            inbox.retry_due(box(store, deadly))
    assert waiting(store) == {1: "dead"}


@pytest.mark.parametrize("state", sorted(parked.WITH_THE_STORE))
def test_what_the_store_keeps_is_not_tried_when_the_broker_sends_it_again(store: Store, state: str) -> None:
    envelope = event("a", 1)
    receive(store, envelope, handler=lambda *_: 1 / 0)
    store[parked.COLLECTION].update_many({}, {"$set": {"state": state}})
    inbox.receive(box(store), [(envelope, True)])
    assert (effects(store, "a"), waiting(store)) == ([], {1: state})


def test_a_parked_event_tells_where_it_failed_and_nothing_it_holds(store: Store) -> None:
    def telling(_work: Work, event: Any) -> None:
        raise ValueError(event.attribute.label)

    receive(store, event("a", 1), handler=telling)
    one = store[parked.COLLECTION].find_one({})
    assert (one["error"], one["failed_at"].split()[-1]) == ("ValueError", "telling")
    assert "label 1" not in repr({**one, "envelope": None})


def test_a_batch_that_is_too_much_for_the_store_is_handled_in_halves(store: Store) -> None:
    sizes: list[int] = []

    def slow(work: Work, _event: Any) -> None:
        sizes[-1] += 1
        if sizes[-1] > 2:
            raise Unavailable("out of time")

    def begin(session: Any, operation: str) -> Work:
        sizes.append(0)
        return box(store).begin(session, operation)

    stop, settled = Event(), []

    def settle(some: list[Delivery]) -> None:
        settled.extend(some)
        if len(settled) == 6:
            stop.set()

    inbound: Queue[Delivery] = Queue()
    for number in range(6):
        inbound.put(Delivery(number, None, event(f"r{number}", 1), redelivered=False))  # type: ignore[arg-type]
    inbox.run(Inbox(store, {UPDATED: slow}, begin), inbound, settle, stop)
    assert [one.tag for one in settled] == [0, 1, 2, 3, 4, 5]
    assert waiting(store) == {}


def deadly(work: Work, event: Any) -> None:
    if event.attribute.key == "bad":
        raise SystemExit  # as far as this process gets
    effect(work, event)


def test_an_event_that_kills_its_consumer_is_set_aside_and_no_innocent_one_is_blamed(store: Store) -> None:
    batch = [event("good", 1), event("bad", 1), *(event(f"after{number}", 1) for number in range(5))]
    deaths = 0
    for delivery in range(10):
        try:
            inbox.receive(box(store, deadly), [(one, delivery > 0) for one in batch])
            break
        except SystemExit:
            deaths += 1
    assert deaths == 5
    assert store[EFFECTS].count_documents({}) == 6
    assert [(one["aggregate_id"], one["state"]) for one in store[parked.COLLECTION].find({})] == [("bad", "dead")]


def test_a_store_that_is_away_for_long_makes_nobody_suspicious(store: Store) -> None:
    batch, counted = [(event("a", 1), True), (event("b", 1), True)], set()

    def away(_work: Work, _event: Any) -> None:
        raise Unavailable("the store is away")

    for _ in range(10):
        with pytest.raises(Unavailable):
            inbox.receive(box(store, away), batch, counted)
    inbox.receive(box(store), batch, counted)
    assert (effects(store, "a"), effects(store, "b"), waiting(store)) == ([1], [1], {})


def test_a_redelivered_event_that_was_handled_is_dropped(store: Store) -> None:
    envelope = event("a", 1)
    receive(store, envelope)
    for _ in range(10):
        inbox.receive(box(store), [(envelope, True)])
    assert (effects(store, "a"), waiting(store)) == ([1], {})


def test_what_a_handler_publishes_leaves_with_its_effect(store: Store) -> None:
    def answering(work: Work, event: Any) -> None:
        effect(work, event)
        if event.attribute.version == 2:
            raise Broken

    receive(store, event("a", 1), event("a", 2), handler=answering)
    assert effects(store, "a") == [1]
    assert testing.published(store) == []
