"""Reading a customer's timeline."""

from crm.customer.v1 import customer_pb2

from chassis import codec
from chassis.reads import Reader
from chassis.store import Document
from customer.rules import terms
from customer.store import CUSTOMERS, INTERACTIONS, position_of


def get_interaction(reader: Reader, request: customer_pb2.GetInteractionRequest) -> customer_pb2.GetInteractionResponse:
    """One interaction with all its contacts."""
    return customer_pb2.GetInteractionResponse(interaction=reader.get(INTERACTIONS, request.interaction_id))


def list_interactions(
    reader: Reader, request: customer_pb2.ListInteractionsRequest
) -> customer_pb2.ListInteractionsResponse:
    """A page of a customer's timeline, newest first."""
    reader.get(CUSTOMERS, request.customer_id)
    interactions, token = reader.page(
        INTERACTIONS, _timeline(request), by="-_position", size=request.page_size, token=request.page_token
    )
    return customer_pb2.ListInteractionsResponse(interactions=interactions, next_page_token=token)


def _timeline(request: customer_pb2.ListInteractionsRequest) -> Document:
    where: Document = {"customer_id": request.customer_id}
    if request.status:
        where["status"] = codec.enum_name(customer_pb2.InteractionStatus.DESCRIPTOR, request.status)
    if request.channel:
        where["_channels"] = codec.enum_name(customer_pb2.Channel.DESCRIPTOR, request.channel)
    if request.query:
        where["_terms"] = {"$all": terms.query_terms(request.query)}
    span = {}
    if request.HasField("start_after"):
        span["$gte"] = position_of(request.start_after.ToMilliseconds())
    if request.HasField("start_before"):
        span["$lt"] = position_of(request.start_before.ToMilliseconds())
    return where | ({"_position": span} if span else {})
