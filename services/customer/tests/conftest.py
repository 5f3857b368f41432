"""The customer service on a real store and a real socket."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from chassis import testing
from chassis.store import Store
from chassis.testing import Client
from customer import __main__ as wiring
from customer import rpc


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store(wiring.service(wiring.CustomerSettings()).whole_schema)


@pytest.fixture
def client(store: Store) -> Iterator[Client]:
    with testing.serving("customer", store, rpc.endpoints(region="CN")) as client:
        yield client


@pytest.fixture
def register(client: Client) -> Callable[..., Any]:
    """Registers a person by name, with any other fields."""
    from crm.customer.v1 import customer_pb2

    def one(name: str, **fields: Any) -> customer_pb2.Customer:
        given = {"kind": "CUSTOMER_KIND_PERSON", "names": [{"full": name}], **fields}
        request = customer_pb2.RegisterCustomerRequest(customer=customer_pb2.Customer(**given), request_id=str(uuid4()))
        return client.call(request).customer

    return one
