"""RabbitMQ: one topology, publishing with confirms, consuming on a thread of its own.

Every connection belongs to one thread. Confirmed means stored by the queues, not handled; a message without a
queue comes back as returned and counts as not published.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from queue import Queue
from threading import Event as StopSignal
from time import monotonic
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPError, ConnectionWrongStateError

from chassis import log
from chassis.events import PARTITIONS, Envelope, from_headers

EXCHANGE = "crm.events"
DEAD = "crm.dead"
DELIVERY_LIMIT = 20
PREFETCH = 200
MAX_LENGTH = 1_000_000
CONFIRM_SECONDS = 5.0
HEARTBEAT_SECONDS = 20
RECONNECT_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


@dataclass(frozen=True)
class Delivery:
    """An event as it came: whether for the first time, and how to settle it."""

    tag: int
    channel: BlockingChannel
    envelope: Envelope
    redelivered: bool


def parameters(url: str, name: str) -> pika.URLParameters:
    """How every connection is made: heartbeat, bounded waits, a name that operators see."""
    found = pika.URLParameters(url)
    found.heartbeat = HEARTBEAT_SECONDS
    found.blocked_connection_timeout = 30
    found.socket_timeout = 5
    found.stack_timeout = 10
    found.client_properties = {"connection_name": name}
    return found


def queue_name(service: str, partition: int) -> str:
    """The queue of one ordered stream of one consumer."""
    return f"{service}.{partition}"


def queue_arguments() -> dict[str, Any]:
    """What every event queue is declared with; nothing is left to a broker's default."""
    return {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-max-length": MAX_LENGTH,
    }


def declare_exchange(channel: BlockingChannel) -> None:
    """The exchange of all events and the last resort for what no consumer could settle."""
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    channel.exchange_declare(DEAD, "fanout", durable=True)
    channel.queue_declare(DEAD, durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind(DEAD, DEAD)


def declare(channel: BlockingChannel, service: str, packages: Iterable[str]) -> None:
    """The queues of a consumer, bound to every event of the packages it listens to."""
    declare_exchange(channel)
    for number in range(PARTITIONS):
        channel.queue_declare(queue_name(service, number), durable=True, arguments=queue_arguments())
        for package in packages:
            channel.queue_bind(queue_name(service, number), EXCHANGE, f"{package}.*.{number}")


class ConfirmedPublisher:
    """Publishes batches and waits until the broker confirmed or refused each message. Belongs to one thread."""

    def __init__(self, url: str, name: str) -> None:
        self._parameters = parameters(url, f"{name} relay")
        self._connection: pika.SelectConnection | None = None
        self._channel: Any = None
        self._waiting: dict[int, str] = {}
        self._refused: dict[str, str] = {}
        self._failures = 0
        self._tag = 0

    def publish(self, envelopes: list[Envelope]) -> dict[str, str]:
        """Event ids that were not confirmed, with why: returned, nacked, timeout, closed."""
        if not self._ready():
            return {one.event_id: "unreachable" for one in envelopes}
        self._refused = {}
        for envelope in envelopes:
            self._send(envelope)
        self._drive(CONFIRM_SECONDS, until_settled=True)
        why = "timeout" if self._open() else "closed"
        self._refused |= dict.fromkeys(self._waiting.values(), why)
        if self._waiting:
            self.close()  # a late confirm must not be taken for one of the next batch
        return self._refused

    def idle(self, seconds: float) -> None:
        """Waits; heartbeats go on meanwhile."""
        if self._open():
            self._drive(seconds)
        else:
            StopSignal().wait(seconds)

    def close(self) -> None:
        """Closes the connection; the next publish opens a new one."""
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
            self._drive(1.0)
        self._connection = self._channel = None
        self._waiting = {}

    def _open(self) -> bool:
        return self._channel is not None and self._channel.is_open

    def _ready(self) -> bool:
        if self._open():
            return True
        self.close()
        self._connection = pika.SelectConnection(
            self._parameters,
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._opened),
            on_open_error_callback=self._stop,
            on_close_callback=self._stop,
        )
        self._drive(10.0)
        self._failures = 0 if self._open() else self._failures + 1
        if not self._open():
            StopSignal().wait(RECONNECT_SECONDS[min(self._failures, len(RECONNECT_SECONDS)) - 1])
        return self._open()

    def _opened(self, channel: Any) -> None:
        self._channel, self._tag = channel, 0
        channel.add_on_return_callback(self._returned)
        channel.add_on_close_callback(self._stop)
        channel.confirm_delivery(self._confirmed, callback=self._stop)

    def _send(self, envelope: Envelope) -> None:
        properties = pika.BasicProperties(
            message_id=envelope.event_id,
            type=envelope.type,
            content_type="application/protobuf",
            delivery_mode=2,
            headers=envelope.headers(),
        )
        try:
            self._channel.basic_publish(EXCHANGE, envelope.routing_key, envelope.body, properties, mandatory=True)
        except AMQPError:
            self._refused[envelope.event_id] = "closed"
        else:
            self._tag += 1
            self._waiting[self._tag] = envelope.event_id

    def _returned(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        self._refused[properties.message_id] = "unroutable"

    def _confirmed(self, frame: Any) -> None:
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        settled = [one for one in self._waiting if one == tag or (multiple and one <= tag)]
        for one in settled:
            event_id = self._waiting.pop(one)
            if isinstance(frame.method, pika.spec.Basic.Nack):
                self._refused[event_id] = "nacked"
        if not self._waiting:
            self._stop()

    def _stop(self, *_: Any) -> None:
        if self._connection is not None:
            self._connection.ioloop.stop()

    def _drive(self, seconds: float, *, until_settled: bool = False) -> None:
        """Runs the connection's own loop for a while, or until nothing is waiting."""
        if self._connection is None or (until_settled and not self._waiting):
            return
        handle = self._connection.ioloop.call_later(seconds, self._connection.ioloop.stop)
        self._connection.ioloop.start()
        self._connection.ioloop.remove_timeout(handle)


class Consumer:
    """Receives the messages of the partitions this worker holds and hands them to a queue. Belongs to one thread."""

    def __init__(self, url: str, service: str, packages: Iterable[str], inbound: Queue[Delivery]) -> None:
        self._parameters = parameters(url, f"{service} consumer")
        self._service, self._packages, self._inbound = service, tuple(packages), inbound
        self._connection: BlockingConnection | None = None
        self._channels: dict[int, BlockingChannel] = {}

    def run(self, held: Callable[[], frozenset[int]], stop: StopSignal) -> None:
        """Consumes until `stop`, reconnecting for ever."""
        failures = 0
        while not stop.is_set():
            try:
                self._connect()
                failures = 0
                self._consume(held, stop)
            except (AMQPError, OSError) as error:
                log.warning("consumer lost the broker", error=error)
                stop.wait(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
                failures += 1
        self._close()

    def settle(self, deliveries: list[Delivery]) -> None:
        """Acknowledges, from any thread; what belongs to a connection since lost comes again and is known."""
        connection = self._connection
        if connection is None or not connection.is_open:
            return
        with suppress(ConnectionWrongStateError):  # lost this very moment
            for delivery in deliveries:
                connection.add_callback_threadsafe(lambda one=delivery: _acknowledge(one))

    def _connect(self) -> None:
        self._close()
        self._connection = BlockingConnection(self._parameters)
        channel = self._connection.channel()
        declare(channel, self._service, self._packages)
        channel.close()

    def _consume(self, held: Callable[[], frozenset[int]], stop: StopSignal) -> None:
        assert self._connection is not None
        checked = 0.0
        while not stop.is_set():
            if monotonic() - checked > 1.0:
                self._follow(held())
                checked = monotonic()
            self._connection.process_data_events(time_limit=0.1)

    def _follow(self, held: frozenset[int]) -> None:
        """Opens a channel for each partition gained and closes those lost; a dead channel is opened again."""
        assert self._connection is not None
        for number in [one for one, channel in self._channels.items() if one not in held or not channel.is_open]:
            channel = self._channels.pop(number)
            if channel.is_open:
                channel.close()  # closing returns what was prefetched, in order
        for number in sorted(held - self._channels.keys()):
            self._channels[number] = self._subscribe(self._connection.channel(), number)

    def _subscribe(self, channel: BlockingChannel, number: int) -> BlockingChannel:
        def received(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            try:
                envelope = from_headers(properties.headers or {}, body)
            except (KeyError, TypeError, ValueError) as error:
                # Not one of our events; the dead-letter queue keeps it for a person to look at.
                log.error("message set aside", queue=queue_name(self._service, number), error=error)
                channel.basic_reject(method.delivery_tag, requeue=False)
                return
            self._inbound.put(Delivery(method.delivery_tag, channel, envelope, method.redelivered))

        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(queue_name(self._service, number), received)
        return channel

    def _close(self) -> None:
        self._channels.clear()
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        self._connection = None


def _acknowledge(delivery: Delivery) -> None:
    if delivery.channel.is_open:
        delivery.channel.basic_ack(delivery.tag)
