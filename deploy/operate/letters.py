"""The broker's own dead letters: messages no consumer could settle, with where they came from and why."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from chassis import broker
from chassis.errors import Unavailable
from chassis.events import Envelope, from_headers

MOST = 1000


@dataclass(frozen=True)
class Letter:
    """One dead letter. `envelope` is None where it is no event of ours."""

    tag: int
    queue: str
    why: str
    times: int
    properties: Any
    body: bytes
    envelope: Envelope | None

    @property
    def letter_id(self) -> str:
        """What an operator calls it: the id its publisher gave it."""
        return str(self.properties.message_id or f"without-id-{self.tag}")

    @property
    def service(self) -> str:
        """The consumer whose queue it was in; empty where the broker does not tell."""
        return self.queue.rpartition(".")[0]


Chosen = Callable[[Letter], bool]


@contextmanager
def opened(url: str) -> Iterator[BlockingChannel]:
    """A channel that confirms; raises `Unavailable` where the broker does not answer."""
    try:
        connection = pika.BlockingConnection(broker.parameters(url, "operator"))
    except (pika.exceptions.AMQPError, OSError) as error:
        raise Unavailable(f"the broker does not answer ({type(error).__name__})") from error
    try:
        channel = connection.channel()
        broker.declare_exchange(channel)
        channel.confirm_delivery()
        yield channel
    finally:
        connection.close()  # what was looked at and not settled goes back


def look(channel: BlockingChannel, chosen: Chosen = lambda _one: True) -> list[Letter]:
    """The dead letters that are meant, oldest first, of at most a thousand. They stay until they are settled."""
    found = []
    for _ in range(MOST):
        method, properties, body = channel.basic_get(broker.DEAD)
        if method is None:
            break
        found.append(_letter(method.delivery_tag, properties, body))
    return [one for one in found if chosen(one)]


def _letter(tag: int, properties: Any, body: bytes) -> Letter:
    headers = properties.headers or {}
    death = (headers.get("x-death") or [{}])[0]
    try:
        envelope = from_headers(headers, body)
    except (KeyError, TypeError, ValueError):
        envelope = None
    return Letter(
        tag, death.get("queue", ""), death.get("reason", ""), death.get("count", 0), properties, body, envelope
    )


def send_back(channel: BlockingChannel, one: Letter) -> None:
    """Puts a letter into the queue it died in; it leaves the dead ones when that queue has it."""
    headers = {name: value for name, value in (one.properties.headers or {}).items() if not name.startswith("x-")}
    one.properties.headers = headers
    channel.basic_publish("", one.queue, one.body, one.properties, mandatory=True)
    channel.basic_ack(one.tag)


def drop(channel: BlockingChannel, one: Letter) -> None:
    """Throws a letter away."""
    channel.basic_ack(one.tag)
