"""Registering, changing and archiving customers, and defining what else they may carry."""

from collections.abc import Mapping
from time import monotonic

from crm.customer.v1 import customer_pb2, events_pb2

from chassis import contract
from chassis.errors import inside
from chassis.reads import Reader
from chassis.work import Work
from customer.rules import attributes, customers
from customer.store import ATTRIBUTES, CUSTOMERS, Serials

numbers = Serials("customer_number")
REMEMBERED_SECONDS = 1.0
_remembered: dict[str, tuple[float, dict[str, customer_pb2.Attribute]]] = {}  # by database


def register_customer(
    work: Work, request: customer_pb2.RegisterCustomerRequest, *, region: str
) -> customer_pb2.RegisterCustomerResponse:
    """Registers a new customer."""
    (serial,) = numbers.take(work.store)
    with inside("customer"):
        customer = customers.register(
            request.customer,
            customer_id=work.new_id(),
            serial=serial,
            source=work.caller.channel,
            now=work.now,
            region=region,
        )
        attributes.check(customer, _needed(work, customer))
    work.insert(CUSTOMERS, customer, events_pb2.CustomerRegistered(customer=customer))
    return customer_pb2.RegisterCustomerResponse(customer=customer)


def update_customer(
    work: Work, request: customer_pb2.UpdateCustomerRequest, *, region: str
) -> customer_pb2.UpdateCustomerResponse:
    """Changes a customer; a change that changes nothing makes no event."""
    customers.require_changeable(request.update_mask)
    stored = work.get(CUSTOMERS, request.customer.customer_id, version=request.version)
    with inside("customer"):
        customer, changed = customers.update(stored, request.customer, request.update_mask, now=work.now, region=region)
        contract.validate(customer)
        attributes.check(customer, definitions(work.reader), before=stored)
    if changed:
        event = events_pb2.CustomerUpdated(customer=customer)
        event.changed.paths.extend(changed)
        work.replace(CUSTOMERS, customer, event)
    return customer_pb2.UpdateCustomerResponse(customer=customer)


def archive_customer(work: Work, request: customer_pb2.ArchiveCustomerRequest) -> customer_pb2.ArchiveCustomerResponse:
    """Closes a customer's record."""
    stored = work.get(CUSTOMERS, request.customer_id, version=request.version)
    customer = customers.archive(stored, now=work.now)
    work.replace(CUSTOMERS, customer, events_pb2.CustomerArchived(customer=customer, reason=request.reason))
    return customer_pb2.ArchiveCustomerResponse(customer=customer)


def define_attribute(work: Work, request: customer_pb2.DefineAttributeRequest) -> customer_pb2.DefineAttributeResponse:
    """Defines a custom attribute; raises `Conflict` when the key is taken."""
    attributes.require_new(work.reader.find_one(ATTRIBUTES, {"_id": request.attribute.key}), request.attribute.key)
    with inside("attribute"):
        attribute = attributes.define(request.attribute, now=work.now)
    work.insert(ATTRIBUTES, attribute, events_pb2.AttributeDefined(attribute=attribute))
    return customer_pb2.DefineAttributeResponse(attribute=attribute)


def update_attribute(work: Work, request: customer_pb2.UpdateAttributeRequest) -> customer_pb2.UpdateAttributeResponse:
    """Changes a definition."""
    stored = work.get(ATTRIBUTES, request.attribute.key, version=request.version)
    attributes.require_changeable(request.update_mask)
    with inside("attribute"):
        attribute = attributes.update(stored, request.attribute, request.update_mask, now=work.now)
        contract.validate(attribute)
    work.replace(ATTRIBUTES, attribute, events_pb2.AttributeUpdated(attribute=attribute))
    return customer_pb2.UpdateAttributeResponse(attribute=attribute)


def _needed(work: Work, customer: customer_pb2.Customer) -> Mapping[str, customer_pb2.Attribute]:
    """The definitions to check a new customer against. Where it carries no attribute, only which are required matters:
    that may be known from a moment ago, and most registrations need not ask."""
    at, known = _remembered.get(work.store.database.name, (float("-inf"), {}))
    if customer.attributes or monotonic() - at > REMEMBERED_SECONDS:
        known = definitions(work.reader)
        _remembered[work.store.database.name] = monotonic(), known
    return known


def definitions(reader: Reader) -> dict[str, customer_pb2.Attribute]:
    """Every defined attribute by its key."""
    return {one.key: one for one in reader.find(ATTRIBUTES, {})}
