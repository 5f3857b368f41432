"""What the broker is told: how connections are made, the exchange, and the queues of every consumer."""

from collections.abc import Iterable
from random import uniform
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from chassis.events import PARTITIONS

EXCHANGE = "crm.events"
DEAD = "crm.dead"
DELIVERY_LIMIT = 20
MAX_LENGTH = 1_000_000
HEARTBEAT_SECONDS = 10
RECONNECT_SECONDS = (0.5, 1.0, 2.0, 4.0)
# A peer that is gone without a word is noticed by the system in ten seconds, not in fifteen minutes.
_TCP = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}


def parameters(url: str, name: str) -> pika.URLParameters:
    """How every connection is made: heartbeat, bounded waits, a name that operators see."""
    found = pika.URLParameters(url)
    found.heartbeat = HEARTBEAT_SECONDS
    found.socket_timeout = 5
    found.tcp_options = _TCP
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
    # Looking at a letter and leaving it counts as a delivery; RabbitMQ 4 would drop it after twenty of them.
    channel.queue_declare(DEAD, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1})
    channel.queue_bind(DEAD, DEAD)


def declare(channel: BlockingChannel, service: str, packages: Iterable[str]) -> None:
    """The queues of a consumer, bound to every event of the packages it listens to."""
    declare_exchange(channel)
    for number in range(PARTITIONS):
        channel.queue_declare(queue_name(service, number), durable=True, arguments=queue_arguments())
        for package in packages:
            channel.queue_bind(queue_name(service, number), EXCHANGE, f"{package}.*.{number}")


def pause(failures: int) -> float:
    """How long to wait after so many failures in a row, in seconds: longer and longer, and never all at once."""
    return RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)] * uniform(0.8, 1.2)
