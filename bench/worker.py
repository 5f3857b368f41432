"""The two ends of an event's way, each the whole work of a helper process: customers made, and facts taken in."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import Queue
from threading import Event, Thread
from typing import Any

import pika
from crm.customer.v1 import customer_pb2, events_pb2

from analytics import __main__ as analytics
from bench import databases, made
from bench.pace import paced
from chassis import broker, idempotency, identity, inbox, outbox
from chassis.broker import Delivery
from chassis.events import PARTITIONS, uuid7
from chassis.leases import Leases
from chassis.store import Session, Store, transact
from chassis.work import Work
from customer import __main__ as customer
from customer.store import CUSTOMERS

CUSTOMER = customer.service(customer.CustomerSettings())
ANALYTICS = analytics.service()


# --- customers are made ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fed:
    """How many events a second there really were."""

    rate: float


def feed(uri: str, *, rate: int, together: int, seconds: float) -> Fed:
    """Registers customers at so many a second, so many in one transaction."""
    store = databases.opened(uri, "customer", schema=CUSTOMER.whole_schema)
    # Numbers that no earlier round has given out: a round makes fewer than it lasts milliseconds.
    first = int(time.time() * 1000) % 900_000_000
    people = iter(made.customers(int(rate * seconds), seed=first, first=first))
    started = time.perf_counter()
    for _ in paced(rate / together, seconds):
        transact(store, partial(_register, store, list(islice(people, together))))
    lasted = max(time.perf_counter() - started, seconds)
    store.close()
    return Fed(rate * seconds / lasted)


def _register(store: Store, people: list[customer_pb2.Customer], session: Session) -> None:
    work = idempotency.begin(store, session, identity.system("customer"), source="customer", operation="bench")
    for one in people:
        one.customer_id = uuid7(work.now)
        work.insert(CUSTOMERS, one, events_pb2.CustomerRegistered(customer=one))
    work.flush()


def write_outbox(uri: str, count: int, *, together: int = 1) -> None:
    """Puts so many events into the outbox, as transactions of so many events each leave them."""
    store = databases.opened(uri, "customer", schema=CUSTOMER.whole_schema)
    rows = made.rows(list(made.registered(count)), together=together)
    for start in range(0, len(rows), made.BATCH):
        store[outbox.COLLECTION].insert_many(rows[start : start + made.BATCH])
    store.close()


def relay(uri: str, amqp_url: str, count: int) -> float:
    """Events a second: the `count` that the outbox holds, published and marked by the relay's own rounds; raises
    `ConnectionError` where the broker does not take them all."""
    store = databases.opened(uri, "customer", schema=CUSTOMER.whole_schema)
    publisher, partitions = broker.ConfirmedPublisher(amqp_url, "bench"), range(PARTITIONS)
    publisher.ready()
    started = time.perf_counter()
    sum(iter(partial(outbox.publish_pending, store, partitions, publisher), 0))  # rounds, until one finds nothing
    seconds = time.perf_counter() - started
    left = outbox.pending(store, partitions)
    publisher.close()
    store.close()
    if left:
        raise ConnectionError(f"{len(left)} rows were not published")
    return count / seconds


# --- facts are taken in ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """An event that took effect: when it happened, and when its effect was committed (seconds since 1970)."""

    occurred: float
    settled: float


def consume(uri: str, amqp_url: str, *, count: int, most_seconds: float) -> list[Taken]:
    """Takes in so many events as the analytics worker does, wired as the chassis wires it; raises TimeoutError when
    they do not come."""
    store = databases.opened(uri, "analytics", schema=ANALYTICS.whole_schema)
    taken: list[Taken] = []
    with _consuming(store, amqp_url, taken):
        ends = time.monotonic() + most_seconds
        while len(taken) < count:
            if time.monotonic() > ends:
                raise TimeoutError(f"only {len(taken)} of {count} events arrived")
            time.sleep(0.05)
    store.close()
    return taken


@contextmanager
def _consuming(store: Store, amqp_url: str, taken: list[Taken]) -> Iterator[None]:
    held, stop, inbound = Leases(store, "bench"), Event(), Queue[Delivery]()
    consumer = broker.Consumer(amqp_url, ANALYTICS.name, ANALYTICS.listens, inbound)
    box = inbox.Inbox(store, ANALYTICS.handlers, partial(_begin, store), ANALYTICS.every)

    def settle(deliveries: list[Delivery]) -> None:
        now = time.time()
        taken.extend(Taken(one.envelope.occurred.timestamp(), now) for one in deliveries)
        consumer.settle(deliveries)

    loops: list[Any] = [held.keep, partial(consumer.run, held.held), partial(inbox.run, box, inbound, settle)]
    threads = [Thread(target=loop, args=(stop,), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def _begin(store: Store, session: Session, operation: str) -> Work:
    return idempotency.begin(store, session, identity.system("analytics"), source="analytics", operation=operation)


def declare(amqp_url: str) -> None:
    """Makes the queues of the consumer, empty."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        broker.declare(channel, ANALYTICS.name, ANALYTICS.listens)
        for number in range(PARTITIONS):
            channel.queue_purge(broker.queue_name(ANALYTICS.name, number))


def await_consumer(amqp_url: str, *, most_seconds: float = 20.0) -> None:
    """Waits until every queue is being consumed."""
    ends = time.monotonic() + most_seconds
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        for number in range(PARTITIONS):
            name = broker.queue_name(ANALYTICS.name, number)
            while not channel.queue_declare(name, passive=True).method.consumer_count:
                if time.monotonic() > ends:
                    raise TimeoutError(f"nobody consumes {name}")
                time.sleep(0.1)
