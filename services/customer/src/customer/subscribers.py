"""Events of other services that are touches with a customer: they belong on the timeline."""

from crm.customer.v1 import customer_pb2
from google.protobuf.message import Message

from chassis import contract
from chassis.work import Work
from customer.commands import interactions


def record_touch(work: Work, event: Message) -> None:
    """Puts an event on its customer's timeline, as its contract says it reads."""
    options = contract.event_options(event.DESCRIPTOR)
    if options is None:
        return
    channel = str(contract.read(event, options.touch.channel)) if options.touch.channel else ""
    contact = customer_pb2.Contact(
        channel=_channel(channel),
        direction=customer_pb2.DIRECTION_INBOUND if options.touch.inbound else customer_pb2.DIRECTION_OUTBOUND,
        contact_time=min(work.occurred or work.now, work.now),
        agent_id=work.caller.subject,
        summary=contract.read(event, options.touch.summary),
        links=[customer_pb2.Link(type=options.aggregate, id=contract.read(event, options.key))],
    )
    customer_id = contract.read(event, options.touch.customer)
    request = customer_pb2.RecordInteractionRequest(customer_id=customer_id, contact=contact, topic=options.aggregate)
    interactions.record_interaction(work, request)


def _channel(name: str) -> str:
    return f"CHANNEL_{name}" if f"CHANNEL_{name}" in customer_pb2.Channel.keys() else "CHANNEL_SYSTEM"  # noqa: SIM118


def _touches() -> list[str]:
    options = {name: contract.event_options(kind.DESCRIPTOR) for name, kind in contract.events().items()}
    return [name for name, one in options.items() if one is not None and one.touch.customer]


SUBSCRIPTIONS = dict.fromkeys(_touches(), record_touch)
PACKAGES = tuple(sorted({name.rpartition(".")[0] for name in SUBSCRIPTIONS}))
