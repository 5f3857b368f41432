"""Consuming on a thread of its own: what is received is handed to a queue, and acknowledged when it was handled."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from queue import Queue
from threading import Event as StopSignal
from time import monotonic
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPError, ConnectionWrongStateError

from chassis import log
from chassis.broker.topology import declare, parameters, pause, queue_name
from chassis.events import Envelope, from_headers
from chassis.metrics import BROKER_CONNECTED

PREFETCH = 200
FINISH_SECONDS = 15.0
DECLARE_SECONDS = 30.0


@dataclass(frozen=True)
class Delivery:
    """An event as it came: whether for the first time, and how to settle it."""

    tag: int
    channel: BlockingChannel
    envelope: Envelope
    redelivered: bool


class Consumer:
    """Receives the messages of the partitions this worker holds and hands them to a queue. Belongs to one thread."""

    def __init__(self, url: str, service: str, packages: Iterable[str], inbound: Queue[Delivery]) -> None:
        self._parameters = parameters(url, f"{service} consumer")
        self._service, self._packages, self._inbound = service, tuple(packages), inbound
        self._connection: BlockingConnection | None = None
        self._channels: dict[int, BlockingChannel] = {}

    def run(self, held: Callable[[], frozenset[int]], stop: StopSignal, done: StopSignal | None = None) -> None:
        """Consumes until `stop`, reconnecting for ever; then waits until the handler is `done`, to acknowledge."""
        failures = 0
        while not stop.is_set():
            try:
                self._connect()
                failures = 0
                self._consume(held, stop)
                self._finish(done)
            except (AMQPError, OSError) as error:
                log.warning("consumer lost the broker", error=error)
                BROKER_CONNECTED.labels("consumer").set(0)
                stop.wait(pause(failures))
                failures += 1
        with suppress(AMQPError, OSError):  # it ends in any case
            self._close()

    def settle(self, deliveries: list[Delivery]) -> None:
        """Acknowledges, from any thread, what was received before and up to these; what belongs to a connection since
        lost comes again and is known."""
        connection = self._connection
        if connection is None or not connection.is_open:
            return
        last = {delivery.channel: delivery.tag for delivery in deliveries}
        with suppress(ConnectionWrongStateError):  # lost this very moment
            connection.add_callback_threadsafe(lambda: _acknowledge(last))

    def _connect(self) -> None:
        self._close()
        self._connection = BlockingConnection(self._parameters)
        self._declare()
        BROKER_CONNECTED.labels("consumer").set(1)
        log.info("consumer has the broker")

    def _declare(self) -> None:
        assert self._connection is not None
        channel = self._connection.channel()
        declare(channel, self._service, self._packages)
        channel.close()

    def _consume(self, held: Callable[[], frozenset[int]], stop: StopSignal) -> None:
        assert self._connection is not None
        checked, declared = 0.0, monotonic()
        while not stop.is_set():
            if monotonic() - checked > 1.0:
                self._follow(held())
                checked = monotonic()
            if monotonic() - declared > DECLARE_SECONDS:  # whoever took a queue or a binding away did so by mistake
                self._declare()
                declared = monotonic()
            self._connection.process_data_events(time_limit=0.1)

    def _finish(self, done: StopSignal | None) -> None:
        ends = monotonic() + FINISH_SECONDS
        while self._connection is not None and done is not None and not done.is_set() and monotonic() < ends:
            self._connection.process_data_events(time_limit=0.1)
        if self._connection is not None:
            self._connection.process_data_events(time_limit=0)

    def _follow(self, held: frozenset[int]) -> None:
        """Opens a channel for each partition gained and closes those lost; a dead channel is opened again."""
        assert self._connection is not None
        for number, channel in list(self._channels.items()):
            alive = channel.is_open and channel.consumer_tags  # the broker may cancel a consumer and keep its channel
            if number in held and alive:
                continue
            del self._channels[number]
            if number in held:
                log.warning("the broker ended a consumer", queue=queue_name(self._service, number))
                self._declare()
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


def _acknowledge(last: dict[BlockingChannel, int]) -> None:
    for channel, tag in last.items():
        if channel.is_open:
            channel.basic_ack(tag, multiple=True)
