"""Customers, events and requests to measure with: believable ones, made before the clock runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import pymongo
from crm.customer.v1 import customer_pb2, events_pb2

from chassis import outbox
from chassis.events import Envelope, clock, seal, uuid7
from chassis.store import Document, Store
from customer.rules import identifiers
from customer.rules.customers import normalize
from customer.store import CUSTOMERS
from simulator.people import Person, crowd

BATCH = 500
REGION = "CN"
Json = dict[str, object]


def customer(person: Person, serial: int) -> customer_pb2.Customer:
    """A person as the service would keep it."""
    made = customer_pb2.Customer(
        customer_id=uuid7(clock()),
        customer_number=identifiers.customer_number(serial),
        version=1,
        kind=f"CUSTOMER_KIND_{person.kind}",
        status="CUSTOMER_STATUS_ACTIVE",
        names=[customer_pb2.Name(full=person.as_written("name"))],
        phones=[customer_pb2.Phone(number=person.phone)],
        emails=[customer_pb2.Email(address=person.email)],
        service_numbers=[person.reference],
    )
    if person.document:
        made.documents.add(kind="DOCUMENT_KIND_NATIONAL_ID", number=person.document)
    normalize(made, now=clock(), region=REGION)
    return made


def customers(count: int, *, seed: int = 1, first: int = 0) -> list[customer_pb2.Customer]:
    """So many of them, with serial numbers from `first` on."""
    return [customer(person, serial) for serial, person in enumerate(crowd(seed, count), first)]


@dataclass(frozen=True)
class Known:
    """A customer that is in the store, by what one may ask for it."""

    customer_id: str
    number: str
    phone: str


def fill(store: Store, count: int) -> list[Known]:
    """Puts so many customers into an empty store."""
    made = customers(count)
    for start in range(0, count, BATCH):
        with pymongo.timeout(120):
            store[CUSTOMERS.name].insert_many(map(CUSTOMERS.document, made[start : start + BATCH]))
    return [Known(one.customer_id, one.customer_number, one.phones[0].number) for one in made]


def bodies(count: int) -> Iterator[Json]:
    """What a channel sends to register customers, for ever; so many different ones."""
    return cycle([_body(person) for person in crowd(2, count)])


def _body(person: Person) -> Json:
    body: Json = {
        "kind": person.kind,
        "names": [{"full": person.as_written("name")}],
        "phones": [{"number": person.as_written("phone")}],
        "emails": [{"address": person.email}],
        "service_numbers": [person.reference],
    }
    return body | ({"documents": [{"kind": "NATIONAL_ID", "number": person.document}]} if person.document else {})


def registered(count: int, *, seed: int = 3) -> Iterator[Envelope]:
    """So many events of new customers, each with the customer in it."""
    for one in customers(count, seed=seed):
        event = events_pb2.CustomerRegistered(customer=one)
        yield seal(event, seq=1, source="customer", now=clock(), traceparent="")


def rows(envelopes: list[Envelope], *, together: int = 1) -> list[Document]:
    """The outbox as transactions of so many events each leave it; a single registration leaves a row for its event."""
    transactions = (envelopes[start : start + together] for start in range(0, len(envelopes), together))
    return [row for one in transactions for row in outbox.rows(one)]


def pairs(count: int) -> Iterator[tuple[Document, Document]]:
    """The two documents of a registration as they are kept: the record and its event; without `_id`, for ever."""
    made = customers(count)
    events = registered(count)
    kept = [(CUSTOMERS.document(one), outbox.rows([event])[0]) for one, event in zip(made, events, strict=True)]
    return cycle([(_without_id(one), _without_id(other)) for one, other in kept])


def _without_id(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "_id"}


def several(endless: Iterator[Json], count: int) -> list[Json]:
    """The next so many."""
    return list(islice(endless, count))
