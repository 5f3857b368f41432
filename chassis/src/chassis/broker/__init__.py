"""RabbitMQ: one topology, publishing with confirms, consuming. Every connection belongs to one thread."""

from chassis.broker.consumer import Consumer, Delivery
from chassis.broker.publisher import ConfirmedPublisher
from chassis.broker.topology import (
    DEAD,
    EXCHANGE,
    declare,
    declare_exchange,
    parameters,
    queue_arguments,
    queue_name,
)

__all__ = [
    "DEAD",
    "EXCHANGE",
    "ConfirmedPublisher",
    "Consumer",
    "Delivery",
    "declare",
    "declare_exchange",
    "parameters",
    "queue_arguments",
    "queue_name",
]
