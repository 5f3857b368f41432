"""Publishing with confirms. Confirmed means stored by the queues, not handled; a message without a queue comes back
as returned and counts as not published."""

from collections import OrderedDict
from time import monotonic, sleep
from typing import Any

import pika
from pika.exceptions import AMQPError

from chassis import log
from chassis.broker.topology import EXCHANGE, parameters, pause
from chassis.events import Envelope
from chassis.metrics import BROKER_CONNECTED

CONFIRM_SECONDS = 5.0


class ConfirmedPublisher:
    """Publishes batches and waits until the broker confirmed or refused each message. Belongs to one thread."""

    def __init__(self, url: str, name: str) -> None:
        self._parameters = parameters(url, f"{name} relay")
        self._connection: pika.SelectConnection | None = None
        self._channel: Any = None
        self._waiting: OrderedDict[int, str] = OrderedDict()
        self._refused: dict[str, str] = {}
        self._failures = 0
        self._next_try = 0.0
        self._blocked = False
        self._tag = 0

    def ready(self) -> bool:
        """Whether something can be sent now; connects where that is due. A broker whose alarm blocks its publishers
        is waited for on the connection there is: each new one would leave more behind that it has to read then."""
        if not self._open() and monotonic() >= self._next_try:
            self._connect()
        return self._open() and not self._blocked

    def publish(self, envelopes: list[Envelope]) -> dict[str, str]:
        """Event ids that were not confirmed, with why: unroutable, nacked, timeout, blocked, closed, unreachable."""
        if not self.ready():
            return {one.event_id: "unreachable" for one in envelopes}
        self._refused = {}
        for envelope in envelopes:
            self._send(envelope)
        self._drive(CONFIRM_SECONDS, until_settled=True)
        why = ("blocked" if self._blocked else "timeout") if self._open() else "closed"
        self._refused |= dict.fromkeys(self._waiting.values(), why)
        if self._waiting and not self._blocked:
            self.close()
        self._waiting.clear()  # tags go on counting, so a late confirm is never taken for one of the next batch
        return self._refused

    def idle(self, seconds: float) -> None:
        """Waits; heartbeats go on meanwhile."""
        if self._open():
            self._drive(seconds)
        else:
            sleep(seconds)

    def close(self) -> None:
        """Closes the connection; the next publish opens a new one."""
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
            self._drive(1.0)
        self._connection = self._channel = None
        self._blocked = False
        BROKER_CONNECTED.labels("relay").set(0)

    def _open(self) -> bool:
        return self._channel is not None and self._channel.is_open

    def _connect(self) -> None:
        self.close()
        self._connection = pika.SelectConnection(
            self._parameters,
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._opened),
            on_open_error_callback=self._stop,
            on_close_callback=self._stop,
        )
        self._connection.add_on_connection_blocked_callback(lambda *_: self._block(True))
        self._connection.add_on_connection_unblocked_callback(lambda *_: self._block(False))
        self._drive(5.0)
        BROKER_CONNECTED.labels("relay").set(self._open())
        self._next_try = monotonic() + pause(self._failures)
        if self._open():
            log.info("relay has the broker", failures=self._failures)
            self._failures = 0
        else:
            log.warning("relay finds no broker", failures=self._failures)
            self._failures += 1

    def _block(self, blocked: bool) -> None:
        self._blocked = blocked
        log.warning("the broker blocks its publishers" if blocked else "the broker takes messages again")

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
        tag, settled = frame.method.delivery_tag, []
        if frame.method.multiple:
            while self._waiting and next(iter(self._waiting)) <= tag:
                settled.append(self._waiting.popitem(last=False)[1])
        elif tag in self._waiting:
            settled.append(self._waiting.pop(tag))
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._refused |= dict.fromkeys(settled, "nacked")
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
