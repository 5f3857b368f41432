"""When a contact continues what is open and when it opens something new."""

from datetime import UTC, datetime, timedelta

from crm.customer.v1 import customer_pb2

from chassis.errors import Conflict, invalid

SILENCE = timedelta(hours=24)
MOST_CONTACTS = 100
CLOCK_TOLERANCE = timedelta(minutes=5)
SILENT, SUPERSEDED = "closed after silence", "superseded"

Interaction = customer_pb2.Interaction


def contact(given: customer_pb2.Contact, *, agent: str, now: datetime) -> customer_pb2.Contact:
    """The contact with its time and agent filled in; raises `Invalid` when it lies in the future."""
    made = customer_pb2.Contact()
    made.CopyFrom(given)
    if not made.HasField("contact_time"):
        made.contact_time.FromDatetime(now)
    if made.contact_time.ToDatetime(UTC) > now + CLOCK_TOLERANCE:
        raise invalid("contact.contact_time", "lies in the future")
    made.agent_id = made.agent_id or agent
    return made


def opened(made: customer_pb2.Contact, *, interaction_id: str, customer_id: str, topic: str) -> Interaction:
    """A new interaction that begins with this contact."""
    return Interaction(
        interaction_id=interaction_id,
        version=1,
        customer_id=customer_id,
        topic=topic,
        status=customer_pb2.INTERACTION_STATUS_OPEN,
        contacts=[made],
        start_time=made.contact_time,
        last_contact_time=made.contact_time,
    )


def continued(interaction: Interaction, made: customer_pb2.Contact) -> Interaction:
    """The interaction with one more contact; raises `Conflict` when it is closed."""
    _require_open(interaction)
    after = Interaction()
    after.CopyFrom(interaction)
    after.contacts.append(made)
    if after.last_contact_time.ToNanoseconds() < made.contact_time.ToNanoseconds():
        after.last_contact_time.CopyFrom(made.contact_time)
    after.version += 1
    return after


def closed(interaction: Interaction, *, outcome: str, now: datetime) -> Interaction:
    """The interaction with its outcome; raises `Conflict` when it is closed already."""
    _require_open(interaction)
    after = Interaction()
    after.CopyFrom(interaction)
    after.status = customer_pb2.INTERACTION_STATUS_CLOSED
    after.outcome = outcome
    after.close_time.FromDatetime(now)
    after.version += 1
    return after


def takes_more(interaction: Interaction, made: customer_pb2.Contact) -> bool:
    """Whether a contact may continue this interaction: open, not silent for too long, not grown too large."""
    silent = made.contact_time.ToDatetime() - interaction.last_contact_time.ToDatetime()
    return len(interaction.contacts) < MOST_CONTACTS and silent <= SILENCE


def silent_at(interaction: Interaction) -> datetime:
    """When silence closes an open interaction."""
    return interaction.last_contact_time.ToDatetime(UTC) + SILENCE


def _require_open(interaction: Interaction) -> None:
    if interaction.status != customer_pb2.INTERACTION_STATUS_OPEN:
        raise Conflict("this interaction is closed", reason="CLOSED")
