"""From the outbox through a real broker to the consumer, with everything that can break on the way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Event as StopSignal
from uuid import uuid4

import pika
import pytest
from crm.customer.v1 import customer_pb2, events_pb2
from google.protobuf.message import Message
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

import onebox
from chassis import broker, identity, inbox, leases, outbox, parked, testing, timers, work
from chassis.broker import ConfirmedPublisher, Consumer
from chassis.errors import Unavailable
from chassis.events import PARTITIONS, Envelope, clock, from_headers, partition, seal
from chassis.store import Store, connect

SCHEMA = {**inbox.SCHEMA, **outbox.SCHEMA, **work.SCHEMA, **timers.SCHEMA, **leases.SCHEMA, "effects": ()}
PACKAGE = "crm.customer.v1"
EVERYWHERE = frozenset(range(PARTITIONS))

# A consumer in a process of its own: its effect is a row for each event, and a poisonous event kills it.
CONSUMING = """
import os, signal, sys, time
from chassis import leases
from chassis.service import Service, Settings, main

leases._MILLIS, leases.RENEW_SECONDS = 2000, 0.5  # a test need not wait as long for a dead worker's lease

def effect(work, event):
    if event.attribute.label == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    row = {"_id": work.new_id(), "at": time.monotonic_ns(), "key": event.attribute.key, "seq": event.attribute.version}
    work.put("effects", row)

name, mongodb, amqp, keys, port = sys.argv[1:]
handlers = {"crm.customer.v1.AttributeUpdated": effect}
made = Service(name, {"effects": ()}, {}, handlers=handlers, listens=("crm.customer.v1",))
settings = Settings(mongodb, amqp, keys, b"secret", http_port=int(port))
sys.exit(main(made, settings, "migrate", {}) or main(made, settings, "work", {}))
"""


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store(SCHEMA)


@pytest.fixture
def name(amqp_url: str) -> Iterator[str]:
    """A consumer's name of this test's own; its queues are gone afterwards."""
    name = f"t{uuid4().hex[:10]}"
    yield name
    with channel(amqp_url) as one:
        for number in range(PARTITIONS):
            one.queue_delete(broker.queue_name(name, number))


@contextmanager
def channel(url: str) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def updated(key: str, seq: int, label: str = "x") -> Message:
    return events_pb2.AttributeUpdated(attribute=customer_pb2.Attribute(key=key, version=seq, label=label))


def envelope(key: str, seq: int, label: str = "x") -> Envelope:
    return seal(updated(key, seq, label), seq=seq, source="test", now=clock(), traceparent="")


def write(store: Store, *envelopes: Envelope) -> None:
    """Puts events into the outbox as a transaction does."""
    for one in envelopes:
        store[outbox.COLLECTION].insert_many(outbox.rows([one]))


def states(store: Store) -> dict[str, int]:
    rows = [one["state"] for one in store[outbox.COLLECTION].find({})]
    return {state: rows.count(state) for state in set(rows)}


def publish(store: Store, url: str, *, partitions: frozenset[int] = EVERYWHERE) -> None:
    publisher = ConfirmedPublisher(url, "test")
    outbox.publish_pending(store, partitions, publisher)
    publisher.close()


def received(url: str, name: str) -> list[Envelope]:
    """Takes everything out of a consumer's queues."""
    found: list[Envelope] = []
    with channel(url) as one:
        for number in range(PARTITIONS):
            take = lambda _channel, _method, properties, body: found.append(from_headers(properties.headers, body))  # noqa: E731
            one.basic_consume(broker.queue_name(name, number), take, auto_ack=True)
        count = -1
        while count < len(found):
            count = len(found)
            one.connection.process_data_events(time_limit=0.7)
    return found


def until(holds: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return True


# --- publishing ------------------------------------------------------------------------------------------------------


def test_an_event_is_marked_when_its_queues_have_it(store: Store, amqp_url: str, name: str) -> None:
    with channel(amqp_url) as one:
        broker.declare(one, name, [PACKAGE])
    sent = [envelope(f"r{number % 7}", number // 7 + 1) for number in range(70)]
    write(store, *sent)
    publish(store, amqp_url)
    assert states(store) == {"published": 70}
    assert {one.event_id for one in received(amqp_url, name)} == {one.event_id for one in sent}


def test_an_event_nobody_has_a_queue_for_stays_and_holds_up_nobody(store: Store, amqp_url: str, name: str) -> None:
    with channel(amqp_url) as one:
        broker.declare(one, name, ["test.elsewhere.v1"])  # whose events nobody sends
        for number in range(PARTITIONS):
            one.queue_bind(broker.queue_name(name, number), broker.EXCHANGE, f"*.*.v1.AttributeUpdated.{number}")
        lonely = partition("lonely")
        one.queue_unbind(broker.queue_name(name, lonely), broker.EXCHANGE, f"*.*.v1.AttributeUpdated.{lonely}")
        mine = [f"r{number}" for number in range(40) if partition(f"r{number}") != lonely]
        write(store, envelope("lonely", 1), *(envelope(key, 1) for key in mine))
        publish(store, amqp_url)
        waiting = store[outbox.COLLECTION].find({"state": "pending"})
        stuck = {event["aggregate_id"] for row in waiting for event in row["events"]}
        # Other consumers of this broker may have a queue for it; then nothing is stuck.
        assert stuck <= {"lonely"}
        one.queue_bind(broker.queue_name(name, lonely), broker.EXCHANGE, f"*.*.v1.AttributeUpdated.{lonely}")
    publish(store, amqp_url)
    assert states(store) == {"published": len(mine) + 1}
    assert {one.aggregate_id for one in received(amqp_url, name)} == {"lonely", *mine}


def test_a_missing_binding_is_unroutable_and_nothing_is_marked(store: Store, tmp_path: Path) -> None:
    private = onebox.start_broker(tmp_path)
    try:
        with channel(private.uri) as one:
            broker.declare_exchange(one)
        write(store, *(envelope("a", seq) for seq in range(1, 6)))
        publisher = ConfirmedPublisher(private.uri, "test")
        pending = outbox.pending(store, EVERYWHERE)
        refused = publisher.publish([Envelope(**event) for row in pending for event in row["events"]])
        publisher.close()
        assert set(refused.values()) == {"unroutable"}
        publish(store, private.uri)
        assert states(store) == {"pending": 5}
        with channel(private.uri) as one:
            broker.declare(one, "late", [PACKAGE])
        publish(store, private.uri)
        assert states(store) == {"published": 5}
        assert [one.seq for one in received(private.uri, "late")] == [1, 2, 3, 4, 5]
    finally:
        private.stop()


def test_a_broker_that_is_gone_loses_nothing(store: Store, tmp_path: Path) -> None:
    port = onebox.free_port()
    first = onebox.start_broker(tmp_path, port=port)
    with channel(first.uri) as one:
        broker.declare(one, "survivor", [PACKAGE])
    write(store, *(envelope("a", seq) for seq in range(1, 21)))
    publisher = ConfirmedPublisher(first.uri, "test")
    outbox.publish_pending(store, EVERYWHERE, publisher)
    time.sleep(2)  # this broker does not find a queue again that was declared a moment before it was killed
    first.kill()
    write(store, *(envelope("a", seq) for seq in range(21, 41)))
    assert outbox.publish_pending(store, EVERYWHERE, publisher) == 0
    assert states(store) == {"published": 20, "pending": 20}
    second = onebox.start_broker(tmp_path, port=port)
    try:
        assert until(lambda: outbox.publish_pending(store, EVERYWHERE, publisher) > 0, 60)
        publisher.close()
        assert states(store) == {"published": 40}
        assert sorted({one.seq for one in received(second.uri, "survivor")}) == list(range(1, 41))
    finally:
        second.stop()


def test_a_long_queue_of_one_partition_does_not_hide_the_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_ROWS", 32)
    keys = {partition(f"r{number}"): f"r{number}" for number in range(200)}
    write(store, *(envelope(keys[0], seq) for seq in range(1, 51)), envelope(keys[9], 1))
    found = outbox.pending(store, EVERYWHERE)
    assert {row["partition"] for row in found} == {0, 9}


def test_numbers_of_one_record_are_given_once(store: Store) -> None:
    write(store, envelope("a", 1))
    with pytest.raises(Exception, match="E11000"):
        write(store, envelope("a", 1))


def test_new_work_is_refused_while_too_much_waits_for_the_broker(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = outbox.Gate(store, most=3)
    write(store, *(envelope("a", seq) for seq in range(1, 4)))
    gate.admit()
    write(store, envelope("a", 4))
    gate.admit()  # it does not look at every call
    monkeypatch.setattr(outbox, "GATE_SECONDS", 0.0)
    with pytest.raises(Unavailable) as caught:
        gate.admit()
    assert (caught.value.reason, caught.value.retry_after) == ("OUTBOX_FULL", 30)
    store[outbox.COLLECTION].delete_one({"state": "pending"})
    gate.admit()


# --- topology --------------------------------------------------------------------------------------------------------


def test_the_broker_has_what_the_topology_says(amqp_url: str, name: str) -> None:
    with channel(amqp_url) as one:
        broker.declare(one, name, [PACKAGE])
        broker.declare(one, name, [PACKAGE])  # again: nothing changes
    changes = {"x-delivery-limit": 3, "x-overflow": "drop-head", "x-max-length": 5, "x-single-active-consumer": False}
    for argument, other in changes.items():
        arguments = broker.queue_arguments() | {argument: other}
        with channel(amqp_url) as one, pytest.raises(ChannelClosedByBroker, match="inequivalent arg"):
            one.queue_declare(broker.queue_name(name, 0), durable=True, arguments=arguments)


def test_pika_is_called_from_the_owners_thread_only(
    store: Store, amqp_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers: set[tuple[str, int]] = set()
    for method in ("basic_ack", "basic_consume", "basic_qos", "close"):
        original = getattr(BlockingChannel, method)

        def watched(self: object, *arguments: object, _of=original, _name=method, **named: object) -> object:
            callers.add((_name, threading.get_ident()))
            return _of(self, *arguments, **named)

        monkeypatch.setattr(BlockingChannel, method, watched)
    write(store, *(envelope(f"r{number}", 1) for number in range(30)))
    with consuming(store, amqp_url, name) as owner:
        assert until(lambda: store["effects"].count_documents({}) == 30, 60)
        assert until(lambda: any(method == "basic_ack" for method, _ in callers), 10)
    assert {thread for method, thread in callers if method in ("basic_ack", "basic_consume")} == {owner}


@contextmanager
def consuming(store: Store, url: str, name: str) -> Iterator[int | None]:
    """A consumer and its handler on threads, as a worker runs them; yields the consumer's thread."""
    inbound: Queue[broker.Delivery] = Queue()
    consumer, stop = Consumer(url, name, [PACKAGE], inbound), StopSignal()

    def effect(work: work.Work, event: events_pb2.AttributeUpdated) -> None:
        work.put("effects", {"_id": work.new_id(), "key": event.attribute.key, "seq": event.attribute.version})

    def begin(session: object, _operation: str) -> work.Work:
        return work.Work(store=store, session=session, source="t", caller=testing.somebody(), now=clock())

    box = inbox.Inbox(store, {updated("a", 1).DESCRIPTOR.full_name: effect}, begin)
    loops = (
        partial(consumer.run, lambda: EVERYWHERE, stop),
        partial(inbox.run, box, inbound, consumer.settle, stop),
        lambda: relaying(store, url, stop),
    )
    threads = [threading.Thread(target=loop) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield threads[0].ident
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def relaying(store: Store, url: str, stop: StopSignal) -> None:
    publisher = ConfirmedPublisher(url, "test")
    while not stop.is_set():
        outbox.publish_pending(store, EVERYWHERE, publisher)
        publisher.idle(0.05)
    publisher.close()


def test_a_message_that_is_not_ours_is_set_aside_and_the_others_flow(store: Store, amqp_url: str, name: str) -> None:
    with channel(amqp_url) as one:
        broker.declare(one, name, [PACKAGE])
        for number in range(PARTITIONS):
            one.basic_publish("", broker.queue_name(name, number), b"?", pika.BasicProperties(headers={"x": 1}))
    write(store, *(envelope(f"r{number}", 1) for number in range(20)))
    with consuming(store, amqp_url, name), channel(amqp_url) as one:
        assert until(lambda: store["effects"].count_documents({}) == 20, 60)
        assert until(lambda: one.queue_declare(broker.DEAD, passive=True).method.message_count >= PARTITIONS, 20)
        one.queue_purge(broker.DEAD)


# --- processes that die ----------------------------------------------------------------------------------------------


@contextmanager
def worker(name: str, mongodb_uri: str, amqp_url: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    _, public = identity.generate("test")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", CONSUMING, name, mongodb_uri, amqp_url, public, str(testing.free_port())]
    with (directory / "worker.log").open("ab") as log, subprocess.Popen(command, env=env, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def database(uri: str, name: str) -> Iterator[Store]:
    """The database of a worker process; it makes and keeps it itself."""
    store = connect(uri, name, schema=SCHEMA)
    yield store
    store.close()


@pytest.mark.slow
def test_killed_consumers_and_workers_neither_lose_nor_double_nor_reorder(
    store: Store, mongodb_uri: str, amqp_url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with channel(amqp_url) as one:
        broker.declare(one, name, [PACKAGE])
    sent = [envelope(f"r{number % 30}", number // 30 + 1) for number in range(1500)]
    with database(mongodb_uri, name) as target:
        for round_ in range(3):
            with worker(name, mongodb_uri, amqp_url, tmp_path) as process:
                write_rows(store, sent[round_ * 500 : round_ * 500 + 500])
                publish(store, amqp_url)
                wanted = round_ * 500 + (250 if round_ < 2 else 500)
                # A dead worker's transaction holds its locks until the store gives it up, after twenty seconds.
                assert until(lambda wanted=wanted: target["effects"].count_documents({}) >= wanted, 150)
                if round_ < 2:
                    process.send_signal(signal.SIGKILL)
                else:
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(40) == 0
        effects = [(one["key"], one["seq"]) for one in target["effects"].find({}).sort("at", 1)]
        assert len(effects) == len(set(effects)) == 1500
        for key in {key for key, _ in effects}:
            assert [seq for of, seq in effects if of == key] == list(range(1, 51))


def write_rows(store: Store, envelopes: list[Envelope]) -> None:
    store[outbox.COLLECTION].insert_many(row for one in envelopes for row in outbox.rows([one]))


@pytest.mark.slow
def test_a_poisonous_event_is_set_aside_and_no_innocent_one_with_it(
    store: Store, mongodb_uri: str, amqp_url: str, name: str, tmp_path: Path
) -> None:
    with channel(amqp_url) as one:
        broker.declare(one, name, [PACKAGE])
    write(store, envelope("bad", 1, "poison"), *(envelope(f"r{number}", 1) for number in range(49)))
    publish(store, amqp_url)
    deaths = 0
    with database(mongodb_uri, name) as target:
        for _ in range(8):
            with worker(name, mongodb_uri, amqp_url, tmp_path) as process:
                done = until(lambda p=process: p.poll() is not None or is_set_aside(target), 150)
                assert done
                if is_set_aside(target):
                    assert until(lambda: target["effects"].count_documents({}) == 49, 60)
                    break
                deaths += 1
        assert is_set_aside(target)
        assert deaths == 5
        assert target[parked.COLLECTION].count_documents({}) == 1


def is_set_aside(target: Store) -> bool:
    return target[parked.COLLECTION].count_documents({"state": "dead"}) == 1


@pytest.mark.slow
def test_relays_take_over_from_each_other_without_loss_or_disorder(
    mongodb_uri: str, amqp_url: str, name: str, tmp_path: Path
) -> None:
    """Three workers share the outbox of one service and take its events in; two of them are killed on the way."""
    with database(mongodb_uri, name) as target, ExitStack() as stack:
        start = partial(worker, name, mongodb_uri, amqp_url, tmp_path)
        workers = [stack.enter_context(start()) for _ in range(3)]
        assert until(lambda: len(holders(target)) == 3, 90)
        for round_ in range(3):
            write_rows(target, [envelope(f"r{one % 40}", 10 * round_ + one // 40 + 1) for one in range(400)])
            if round_ < 2:
                assert until(lambda done=round_ * 400 + 100: target["effects"].count_documents({}) >= done, 150)
                workers[round_].send_signal(signal.SIGKILL)
        assert until(lambda: target["effects"].count_documents({}) == 1200, 200)
        assert holders(target) != set()
        assert target[outbox.COLLECTION].count_documents({"state": "pending"}) == 0
        effects = [(one["key"], one["seq"]) for one in target["effects"].find({}).sort("at", 1)]
    assert len(set(effects)) == 1200
    for key in {key for key, _ in effects}:
        assert [seq for of, seq in effects if of == key] == list(range(1, 31))


def holders(target: Store) -> set[str]:
    """Who holds partitions."""
    return {one["holder"] for one in target[leases.COLLECTION].find({"_id": {"$regex": "^partition:"}})} - {""}
