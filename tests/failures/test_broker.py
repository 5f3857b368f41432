"""The broker gone, full, blocked, deaf or refusing: nothing is lost, nobody else is held up, and it mends itself."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Event as StopSignal
from uuid import uuid4

import pika
import pytest
from crm.customer.v1 import customer_pb2, events_pb2
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

import onebox
from chaos.proxy import Network
from chassis import broker, idempotency, identity, inbox, outbox, parked, timers, work
from chassis.broker import ConfirmedPublisher, Consumer
from chassis.events import PARTITIONS, Envelope, clock, partition, seal
from chassis.store import Store

SCHEMA = {**inbox.SCHEMA, **outbox.SCHEMA, **work.SCHEMA, **timers.SCHEMA, "effects": ()}
PACKAGE = "crm.customer.v1"
UPDATED = events_pb2.AttributeUpdated.DESCRIPTOR.full_name
BACK_SECONDS = 10  # after its cause is gone, everything is as before


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store(SCHEMA)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[onebox.Server]:
    """A broker of this test's own, to be mistreated."""
    server = onebox.start_broker(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def name() -> str:
    return f"t{uuid4().hex[:10]}"


@pytest.fixture
def shared(amqp_url: str, name: str) -> Iterator[str]:
    """The broker of all tests, with this consumer's queues, which are gone afterwards."""
    with channel(amqp_url) as one:
        broker.declare(one, name, [PACKAGE])
    yield amqp_url
    with channel(amqp_url) as one:
        for number in range(PARTITIONS):
            one.queue_delete(broker.queue_name(name, number))


def consumers(url: str, queue: str) -> int:
    """How many there are of a queue; -1 where there is no such queue."""
    try:
        with channel(url) as one:
            return int(one.queue_declare(queue, passive=True).method.consumer_count)
    except ChannelClosedByBroker:
        return -1


@contextmanager
def channel(url: str) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def envelope(key: str, seq: int) -> Envelope:
    event = events_pb2.AttributeUpdated(attribute=customer_pb2.Attribute(key=key, version=seq, label="x"))
    return seal(event, seq=seq, source="test", now=clock(), traceparent="")


def write(store: Store, *envelopes: Envelope) -> None:
    store[outbox.COLLECTION].insert_many(row for one in envelopes for row in outbox.rows([one]))


def effects(store: Store) -> list[tuple[str, int]]:
    return sorted((one["key"], one["seq"]) for one in store["effects"].find({}))


def until(holds: Callable[[], bool], seconds: float = BACK_SECONDS) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if holds():
            return True
        time.sleep(0.05)
    return False


class Held:
    """All partitions, without leases."""

    def held(self) -> frozenset[int]:
        return frozenset(range(PARTITIONS))


@contextmanager
def working(store: Store, url: str, name: str) -> Iterator[None]:
    """A relay, a consumer and its handler, as a worker runs them."""
    inbound: Queue[broker.Delivery] = Queue()
    stop, done, consumer = StopSignal(), StopSignal(), Consumer(url, name, [PACKAGE], inbound)

    def effect(made: work.Work, event: events_pb2.AttributeUpdated) -> None:
        made.put("effects", {"_id": made.new_id(), "key": event.attribute.key, "seq": event.attribute.version})

    def begin(session: object, operation: str) -> work.Work:
        return idempotency.begin(store, session, identity.system("t"), source="t", operation=operation)  # type: ignore[arg-type]

    def handle() -> None:
        inbox.run(inbox.Inbox(store, {UPDATED: effect}, begin), inbound, consumer.settle, stop)
        done.set()

    publisher = ConfirmedPublisher(url, name)
    threads = [
        threading.Thread(target=one)
        for one in (
            lambda: consumer.run(Held().held, stop, done),
            handle,
            lambda: outbox.relay(store, Held(), publisher, stop),  # type: ignore[arg-type]
        )
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)


def test_an_alarm_blocks_publishers_and_leaves_one_connection_and_no_second_copy(
    store: Store, private: onebox.Server, name: str
) -> None:
    with working(store, private.uri, name):
        write(store, envelope("a", 1))
        assert until(lambda: effects(store) == [("a", 1)], 30)
        onebox.broker_control(private, "set_vm_memory_high_watermark", "absolute", "1")
        write(store, *(envelope("a", seq) for seq in range(2, 22)))
        time.sleep(12)  # two times what a confirm is waited for
        assert effects(store) == [("a", 1)]
        connections = onebox.broker_control(private, "list_connections", "client_properties").count("relay")
        onebox.broker_control(private, "set_vm_memory_high_watermark", "absolute", "512MB")
        assert until(lambda: effects(store) == [("a", seq) for seq in range(1, 22)])
    assert connections == 1


def test_a_broker_that_was_away_for_long_is_used_again_at_once(store: Store, tmp_path: Path, name: str) -> None:
    port = onebox.free_port()
    first = onebox.start_broker(tmp_path, port=port)
    with working(store, first.uri, name):
        write(store, envelope("a", 1))
        assert until(lambda: effects(store) == [("a", 1)], 30)
        time.sleep(2)  # this broker does not find a queue again that was declared a moment before it was killed
        first.kill()
        write(store, envelope("a", 2))
        time.sleep(20)
        second = onebox.start_broker(tmp_path, port=port)
        try:
            assert until(lambda: effects(store) == [("a", 1), ("a", 2)])
        finally:
            second.stop()


def test_a_connection_that_died_without_a_word_is_given_up(
    store: Store, shared: str, name: str, behind: Callable[[str, str], str], network: Network
) -> None:
    with working(store, behind("broker", shared), name):
        write(store, envelope("a", 1))
        assert until(lambda: effects(store) == [("a", 1)], 30)
        network.turn("broker", "hole")
        write(store, envelope("a", 2))
        time.sleep(8)
        assert effects(store) == [("a", 1)]
        network.turn("broker", "cut")  # what was in the hole is gone for good
        network.turn("broker", "open")
        assert until(lambda: effects(store) == [("a", 1), ("a", 2)])


def test_a_deleted_queue_comes_back_and_its_consumer_with_it(store: Store, shared: str, name: str) -> None:
    with working(store, shared, name), channel(shared) as operator:
        write(store, envelope("a", 1))
        assert until(lambda: effects(store) == [("a", 1)], 30)
        queue = broker.queue_name(name, partition("a"))
        operator.queue_delete(queue)
        assert until(lambda: consumers(shared, queue) == 1)
        write(store, envelope("a", 2))
        assert until(lambda: effects(store) == [("a", 1), ("a", 2)])


def test_a_full_queue_holds_up_its_own_partition_and_is_not_asked_all_the_time(
    store: Store, private: onebox.Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, free = next(f"r{n}" for n in range(99) if partition(f"r{n}") == 3), "b"
    assert partition(free) != 3
    arguments = broker.queue_arguments() | {"x-max-length": 1}
    with channel(private.uri) as one:
        broker.declare_exchange(one)
        for number in range(PARTITIONS):
            given = arguments if number == 3 else broker.queue_arguments()
            one.queue_declare(broker.queue_name(name, number), durable=True, arguments=given)
            one.queue_bind(broker.queue_name(name, number), broker.EXCHANGE, f"{PACKAGE}.*.{number}")
    write(store, *(envelope(full, seq) for seq in range(1, 8)))
    sent: list[int] = []
    publisher, stop = ConfirmedPublisher(private.uri, name), StopSignal()
    original = ConfirmedPublisher.publish
    monkeypatch.setattr(
        ConfirmedPublisher, "publish", lambda self, some: sent.append(len(some)) or original(self, some)
    )
    relay = threading.Thread(target=lambda: outbox.relay(store, Held(), publisher, stop))  # type: ignore[arg-type]
    relay.start()
    try:
        assert until(lambda: store[outbox.COLLECTION].count_documents({"state": "published"}) >= 1, 30)
        time.sleep(4)
        tries = sum(sent)
        write(store, envelope(free, 1))
        where = {"state": "published", "events.aggregate_id": free}
        assert until(lambda: store[outbox.COLLECTION].find_one(where) is not None, 2)
        assert tries <= 7 * 5  # not twenty times a second
        with channel(private.uri) as one:
            one.queue_purge(broker.queue_name(name, 3))
            assert until(
                lambda: (
                    one.queue_purge(broker.queue_name(name, 3)) is not None
                    and store[outbox.COLLECTION].find_one({"state": "pending"}) is None
                ),
                40,
            )
    finally:
        stop.set()
        relay.join(20)


def test_a_second_copy_of_a_dead_event_does_not_wake_it(store: Store, shared: str, name: str) -> None:
    dead = envelope("a", 1)
    write(store, dead)
    store[parked.COLLECTION].bulk_write([parked.parking(dead, {"state": "dead", "attempts": 6})])
    with working(store, shared, name):
        write(store, envelope("b", 1))
        assert until(lambda: effects(store) == [("b", 1)], 30)
        assert until(lambda: store[outbox.COLLECTION].find_one({"state": "pending"}) is None)
        time.sleep(1)
    one = store[parked.COLLECTION].find_one({"_id": dead.event_id})
    assert (one["state"], one["attempts"], effects(store)) == ("dead", 6, [("b", 1)])
