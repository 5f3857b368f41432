"""What an event says in numbers, and what a customer's events add up to."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from crm.analytics.v1 import analytics_pb2
from crm.customer.v1 import customer_pb2, events_pb2
from google.protobuf.message import Message

EVER = ("day", "hour")  # all days: the bounds of a range of `periods`


@dataclass(frozen=True)
class Measure:
    """One thing to count: `name` by `of`; a total without a breakdown has no `of`."""

    name: str
    of: str = ""


def measures(event: Message) -> list[Measure]:
    """What an event adds one to; nothing where it counts for nothing."""
    if isinstance(event, events_pb2.CustomerRegistered):
        customer = event.customer
        return [Measure("customers"), Measure("kind", kind_of(customer)), Measure("source", customer.source or "NONE")]
    if isinstance(event, events_pb2.CustomerArchived):
        return [Measure("archived")]
    if isinstance(event, events_pb2.InteractionOpened):
        return [Measure("interactions"), *_contact(event.interaction)]
    if isinstance(event, events_pb2.InteractionContinued):
        return _contact(event.interaction)
    return []


def _contact(interaction: customer_pb2.Interaction) -> list[Measure]:
    return [Measure("contacts"), Measure("channel", channel_of(interaction.contacts[-1]))]


def kind_of(customer: customer_pb2.Customer) -> str:
    """PERSON or ORGANIZATION."""
    return customer_pb2.CustomerKind.Name(customer.kind).removeprefix("CUSTOMER_KIND_")


def channel_of(contact: customer_pb2.Contact) -> str:
    """WEB, STORE, …"""
    return customer_pb2.Channel.Name(contact.channel).removeprefix("CHANNEL_")


def periods(moment: datetime) -> tuple[str, str, str]:
    """The UTC day, hour and minute an event counts for: how long it is, and its beginning."""
    at = moment.isoformat(timespec="minutes")
    return f"day {at[:10]}", f"hour {at[:13]}", f"minute {at[:16]}"


def complete(moment: datetime) -> list[tuple[str, str]]:
    """The periods that hold everything before the minute of an instant once: days, hours of the day, minutes of the
    hour; each as the bounds of a range of `periods`, the second not included."""
    day, hour, minute = periods(moment)
    return [(EVER[0], day), (day.replace("day", "hour"), hour), (hour.replace("hour", "minute"), minute)]


def customer_of(event: Message) -> str:
    """The customer an event is about; empty where it is about none."""
    if isinstance(event, events_pb2.CustomerRegistered | events_pb2.CustomerUpdated | events_pb2.CustomerArchived):
        return event.customer.customer_id
    if isinstance(event, events_pb2.InteractionOpened | events_pb2.InteractionContinued | events_pb2.InteractionClosed):
        return event.interaction.customer_id
    return ""


def fold(customer_id: str, history: Iterable[tuple[datetime, int, Message]]) -> analytics_pb2.CustomerFact:
    """A customer's state after its events: when each happened, its number in its aggregate, and what it says."""
    fact = analytics_pb2.CustomerFact(customer_id=customer_id)
    channels: Counter[str] = Counter()
    for moment, seq, event in history:
        if isinstance(event, events_pb2.CustomerRegistered | events_pb2.CustomerUpdated | events_pb2.CustomerArchived):
            _fold_customer(fact, moment, seq, event)
        elif isinstance(event, events_pb2.InteractionOpened | events_pb2.InteractionContinued):
            channels[channel_of(event.interaction.contacts[-1])] += 1
            fact.last_contact_time.FromDatetime(moment)
    fact.contacts = channels.total()
    fact.contacts_by_channel.update(channels)
    return fact


def _fold_customer(
    fact: analytics_pb2.CustomerFact,
    moment: datetime,
    seq: int,
    event: events_pb2.CustomerRegistered | events_pb2.CustomerUpdated | events_pb2.CustomerArchived,
) -> None:
    customer = event.customer
    fact.version = seq
    fact.kind = kind_of(customer)
    fact.status = customer_pb2.CustomerStatus.Name(customer.status).removeprefix("CUSTOMER_STATUS_")
    fact.source = customer.source
    fact.changed_time.FromDatetime(moment)
    if isinstance(event, events_pb2.CustomerRegistered):
        fact.registered_time.FromDatetime(moment)
