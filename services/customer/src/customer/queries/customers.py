"""Finding customers by anything somebody might say, and reading them."""

from collections.abc import Iterator

from crm.customer.v1 import customer_pb2

from chassis import codec
from chassis.reads import Reader, beginning
from chassis.store import Document
from customer.commands.customers import definitions
from customer.rules import identifiers, terms
from customer.store import ATTRIBUTES, CUSTOMERS

SEARCH_DEFAULT = 20
# How many candidates of one step are looked at; more share a beginning than anybody reads through.
CANDIDATES = 200


def get_customer(reader: Reader, request: customer_pb2.GetCustomerRequest) -> customer_pb2.GetCustomerResponse:
    """One customer, by id or by number as people write it."""
    number = identifiers.normalize_customer_number(request.customer_id)
    found = reader.find_one(CUSTOMERS, {"customer_number": number}) if number else None
    return customer_pb2.GetCustomerResponse(customer=found or reader.get(CUSTOMERS, request.customer_id))


def list_customers(reader: Reader, request: customer_pb2.ListCustomersRequest) -> customer_pb2.ListCustomersResponse:
    """A page of customers by number."""
    kind = codec.enum_name(customer_pb2.CustomerKind.DESCRIPTOR, request.kind)
    where: Document = {"kind": kind} if request.kind else {}
    customers, token = reader.page(
        CUSTOMERS, where, by="customer_number", size=request.page_size, token=request.page_token
    )
    return customer_pb2.ListCustomersResponse(customers=customers, next_page_token=token)


def search_customers(
    reader: Reader, request: customer_pb2.SearchCustomersRequest, *, region: str
) -> customer_pb2.SearchCustomersResponse:
    """Customers that match what somebody said, the surest match first; ties keep the index's order."""
    wanted = request.page_size or SEARCH_DEFAULT
    searchable = [one.key for one in definitions(reader).values() if one.searchable]
    found: dict[str, tuple[terms.Lookup, Document]] = {}
    for tier in terms.tiers(request.query, region=region, attributes=searchable):
        for lookup in _steps(tier, archived=request.include_archived):
            # One more than can be shown tells whether there are more.
            for document in _candidates(reader, lookup, enough=wanted + 1 + len(found)):
                found.setdefault(document["_id"], (lookup, document))
            if len(found) > wanted:
                break
        if found:
            break
    response = customer_pb2.SearchCustomersResponse(more=len(found) > wanted)
    for lookup, document in list(found.values())[:wanted]:
        response.results.add(match=lookup.match, customer=CUSTOMERS.message(document))
    return response


def _steps(tier: list[terms.Lookup], *, archived: bool) -> Iterator[terms.Lookup]:
    for lookup in tier:
        yield lookup
        if archived:
            yield terms.archived(lookup)


def _candidates(reader: Reader, lookup: terms.Lookup, *, enough: int) -> Iterator[Document]:
    """Customers that a step finds; a beginning may find candidates that are none (see `beginning`)."""
    if lookup.exact:
        where: Document = {"_terms": {"$in": list(lookup.exact)}}
    else:
        where = beginning(reader.store, "_terms", lookup.prefixes)
    for document in reader.documents(CUSTOMERS, where, limit=enough if lookup.exact else CANDIDATES):
        if terms.matches(document["_terms"], lookup):
            yield document


def list_attributes(reader: Reader, request: customer_pb2.ListAttributesRequest) -> customer_pb2.ListAttributesResponse:
    """A page of attribute definitions by key."""
    attributes, token = reader.page(ATTRIBUTES, {}, by="_id", size=request.page_size, token=request.page_token)
    return customer_pb2.ListAttributesResponse(attributes=attributes, next_page_token=token)
