"""RabbitMQ with pika alone: publishing with confirms in a window, and a message a few milliseconds after the other."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle
from threading import Thread
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from bench.pace import paced
from chassis.broker import queue_arguments

QUEUES = [f"bench.plain.{number}" for number in range(16)]  # as many as a consumer of ours has
PERSISTENT = pika.BasicProperties(delivery_mode=2)
LATE_SECONDS = 20.0


@contextmanager
def queues(url: str) -> Iterator[None]:
    """Empty queues of the platform's own type; deleted at the end."""
    with _channel(url) as channel:
        for name in QUEUES:
            channel.queue_delete(name)
            channel.queue_declare(name, durable=True, arguments=queue_arguments())
    try:
        yield
    finally:
        with _channel(url) as channel:
            for name in QUEUES:
                channel.queue_delete(name)


@contextmanager
def _channel(url: str) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield connection.channel()


def publish(url: str, bodies: list[bytes], window: int) -> float:
    """Messages a second: all of these published and confirmed, never more than `window` of them not yet."""
    with queues(url):
        sender = _Sender(url, bodies, window)
        started = time.perf_counter()
        sender.run()
        return len(bodies) / (time.perf_counter() - started)


class _Sender:
    """Sends as fast as confirms come back. The time to connect is part of it, some milliseconds."""

    def __init__(self, url: str, bodies: list[bytes], window: int) -> None:
        self._bodies, self._window = iter(bodies), window
        self._left, self._queues, self._tags = len(bodies), cycle(QUEUES), count(1)
        self._waiting: dict[int, None] = {}  # in the order they were sent
        self._connection: Any = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._opened),
            on_close_callback=lambda *_: self._connection.ioloop.stop(),
        )
        self._channel: Any = None

    def run(self) -> None:
        """Until all are confirmed; raises `ConnectionError` where they are not."""
        self._connection.ioloop.start()
        if self._left:
            raise ConnectionError(f"{self._left} messages were not confirmed")

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._settled, callback=lambda _: self._send())

    def _send(self) -> None:
        while len(self._waiting) < self._window and (body := next(self._bodies, None)) is not None:
            self._channel.basic_publish("", next(self._queues), body, PERSISTENT, mandatory=True)
            self._waiting[next(self._tags)] = None

    def _settled(self, frame: Any) -> None:
        tag, before = frame.method.delivery_tag, len(self._waiting)
        if frame.method.multiple:
            while self._waiting and (first := next(iter(self._waiting))) <= tag:
                del self._waiting[first]
        else:
            del self._waiting[tag]
        self._left -= before - len(self._waiting)
        self._send()
        if not self._left:
            self._connection.close()


def lags(url: str, *, rate: int, seconds: float, body: bytes) -> list[float]:
    """Milliseconds from publishing to receiving, at so many messages a second for so many seconds; sorted."""
    with queues(url):
        found: list[float] = []
        wanted = int(rate * seconds)
        receiver = Thread(target=_receive, args=(url, wanted, found), daemon=True)
        receiver.start()
        with _channel(url) as channel:
            for _ in paced(rate, seconds):
                stamped = pika.BasicProperties(delivery_mode=2, headers={"at": repr(time.time())})
                channel.basic_publish("", QUEUES[0], body, stamped)
        receiver.join(LATE_SECONDS)
        if len(found) < wanted:
            raise TimeoutError(f"only {len(found)} of {wanted} messages arrived")
        return sorted(found)


def _receive(url: str, wanted: int, found: list[float]) -> None:
    numbers = count(1)

    def received(channel: BlockingChannel, method: Any, properties: Any, _body: bytes) -> None:
        found.append((time.time() - float(properties.headers["at"])) * 1000)
        channel.basic_ack(method.delivery_tag)
        if next(numbers) == wanted:
            channel.stop_consuming()

    with _channel(url) as channel:
        channel.basic_qos(prefetch_count=200)
        channel.basic_consume(QUEUES[0], received)
        channel.start_consuming()
