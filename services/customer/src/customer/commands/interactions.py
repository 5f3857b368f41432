"""Recording contacts: on whatever channel they come, they continue what is open or open something new."""

from crm.customer.v1 import customer_pb2, events_pb2

from chassis.errors import Conflict
from chassis.store import Document
from chassis.work import Work
from customer.rules import interactions
from customer.store import CUSTOMERS, INTERACTIONS

SILENCE = "interaction-silence"


def record_interaction(
    work: Work, request: customer_pb2.RecordInteractionRequest
) -> customer_pb2.RecordInteractionResponse:
    """Records a contact with a customer."""
    work.get(CUSTOMERS, request.customer_id)
    made = interactions.contact(request.contact, agent=work.caller.subject, now=work.now)
    open_one = _to_continue(work, request)
    if open_one is not None and not request.start_new and interactions.takes_more(open_one, made):
        interaction = _continue(work, open_one, made)
    else:
        topic = request.topic or (open_one.topic if open_one is not None else "")
        if open_one is not None:
            _close(work, open_one, interactions.SUPERSEDED)
            work.send()  # one matter is open at a time: the old one is closed before the new one is there
        interaction = _open(work, made, customer_id=request.customer_id, topic=topic)
    return customer_pb2.RecordInteractionResponse(interaction=interaction)


def _to_continue(work: Work, request: customer_pb2.RecordInteractionRequest) -> customer_pb2.Interaction | None:
    """The interaction the request names, or the open one on its topic, or the latest open one of any topic."""
    if request.interaction_id:
        named = work.get(INTERACTIONS, request.interaction_id)
        if named.customer_id != request.customer_id:
            raise Conflict("this interaction is another customer's", reason="OTHER_CUSTOMER")
        return named
    where: Document = {"customer_id": request.customer_id, "status": "OPEN"}
    if request.topic:
        where["topic"] = request.topic
    found = work.reader.find(INTERACTIONS, where)
    return max(found, key=lambda one: one.last_contact_time.ToNanoseconds(), default=None)


def _open(work: Work, made: customer_pb2.Contact, *, customer_id: str, topic: str) -> customer_pb2.Interaction:
    interaction = interactions.opened(made, interaction_id=work.new_id(), customer_id=customer_id, topic=topic)
    work.insert(INTERACTIONS, interaction, events_pb2.InteractionOpened(interaction=interaction))
    work.schedule(SILENCE, interaction.interaction_id, interactions.silent_at(interaction))
    return interaction


def _continue(work: Work, open_one: customer_pb2.Interaction, made: customer_pb2.Contact) -> customer_pb2.Interaction:
    interaction = interactions.continued(open_one, made)
    work.replace(INTERACTIONS, interaction, events_pb2.InteractionContinued(interaction=interaction))
    work.schedule(SILENCE, interaction.interaction_id, interactions.silent_at(interaction))
    return interaction


def close_interaction(
    work: Work, request: customer_pb2.CloseInteractionRequest
) -> customer_pb2.CloseInteractionResponse:
    """Closes an interaction with its outcome."""
    stored = work.get(INTERACTIONS, request.interaction_id, version=request.version)
    return customer_pb2.CloseInteractionResponse(interaction=_close(work, stored, request.outcome))


def _close(work: Work, stored: customer_pb2.Interaction, outcome: str) -> customer_pb2.Interaction:
    interaction = interactions.closed(stored, outcome=outcome, now=work.now)
    work.replace(INTERACTIONS, interaction, events_pb2.InteractionClosed(interaction=interaction))
    work.cancel(SILENCE, interaction.interaction_id)
    return interaction


def close_silent(work: Work, interaction_id: str) -> None:
    """Closes an interaction nobody continued in time."""
    stored = work.get(INTERACTIONS, interaction_id)
    if stored.status == customer_pb2.INTERACTION_STATUS_OPEN:
        _close(work, stored, interactions.SILENT)
