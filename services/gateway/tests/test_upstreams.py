"""Services that hang, die or misbehave: others go on, and nobody learns more than he should."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Event, Semaphore
from uuid import uuid4

import grpc
import pytest
from crm.analytics.v1 import analytics_pb2
from crm.customer.v1 import customer_pb2

from chassis import identity, testing, trace
from chassis.errors import Exhausted, Unavailable
from chassis.events import clock
from gateway import app
from gateway.app import create_app
from gateway.breaker import LEAST_CALLS

GET = "/v1/customers/C1"
FRESHNESS = "/v1/analytics/freshness"


@pytest.fixture
def stuck(stack):
    """A customer service that hangs until the event is set, behind a gateway with two places for each service."""
    free, arrived = Event(), Semaphore(0)

    def hang(_call, request):
        arrived.release()
        free.wait(20)
        return customer_pb2.GetCustomerResponse(customer=customer_pb2.Customer(customer_id=request.customer_id))

    address = stack.service("customer", {"GetCustomer": hang})
    yield stack.gateway(addresses={"customer": address}, concurrency=2), free, arrived
    free.set()


def test_a_hanging_service_stops_neither_the_others_nor_the_refusal(stuck) -> None:
    gateway, free, arrived = stuck
    client = gateway.client("administrator")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.get, GET) for _ in range(2)]
        assert all(arrived.acquire(timeout=10) for _ in waiting)
        refused = client.get(GET)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:guanxi:problem:busy")
        assert refused.headers["Retry-After"] == "1"
        assert client.get(FRESHNESS).status_code == 200
        assert not any(one.done() for one in waiting)
        free.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
    assert client.get(GET).status_code == 200


def test_a_service_that_takes_too_long_is_a_504_and_gives_its_place_back(stuck) -> None:
    gateway, free, _ = stuck
    client = gateway.client("administrator")
    statuses = [client.get(GET, headers={"Request-Timeout": "0.2"}).status_code for _ in range(5)]
    assert statuses == [504] * 5
    free.set()
    assert client.get(GET).status_code == 200


def test_a_dead_service_is_a_503_that_says_when_to_come_back_and_not_where_it_was(stack) -> None:
    port = testing.free_port()
    gateway = stack.gateway(addresses={"customer": f"127.0.0.1:{port}"})
    client = gateway.client("administrator")
    for answer in (
        client.get(GET),
        client.get("/v1/customers:export"),
        client.put("/v1/customer-imports/1/file", content=b"a"),
    ):
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        assert str(port) not in answer.text
        assert "127.0.0.1" not in answer.text
    assert client.get(FRESHNESS).status_code == 200


def test_an_operation_a_replica_does_not_have_yet_is_asked_for_later_and_does_not_count_as_an_outage(stack) -> None:
    port = testing.free_port()
    before = grpc.server(ThreadPoolExecutor(2))
    before.add_insecure_port(f"127.0.0.1:{port}")
    before.start()
    client = stack.gateway(addresses={"customer": f"127.0.0.1:{port}"}).client("administrator")
    for _ in range(2 * LEAST_CALLS):
        answer = client.get(GET)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:guanxi:problem:not-yet")
        assert answer.headers["Retry-After"] == "5"
    before.stop(0).wait()


def failing(error: Exception):
    def endpoint(_call, _request):
        raise error

    return endpoint


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [(RuntimeError("secret 13800138000"), 500, "internal"), (Exhausted("full"), 503, "busy"),
     (Unavailable("the store is away", retry_after=7), 503, "unavailable")],
)  # fmt: skip
def test_what_a_service_suffers_is_told_without_its_inside(stack, error: Exception, status: int, kind: str) -> None:
    address = stack.service("customer", {"GetCustomer": failing(error)})
    answer = stack.gateway(addresses={"customer": address}).client("administrator").get(GET)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:guanxi:problem:{kind}")
    assert "138001" not in answer.text
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_service_that_does_not_trust_the_gateway_is_not_the_clients_fault(stack) -> None:
    gateway = stack.gateway()
    stranger = identity.load_signer(identity.generate("test")[0])
    door = replace(gateway.door, signer=stranger, _tokens={})
    client = gateway.client("administrator")
    client.base_url = stack.serve(create_app(door))
    answer = client.get(GET)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:guanxi:problem:not-trusted")


def test_a_token_is_used_again_until_it_ages_or_the_clock_is_set(stack, monkeypatch) -> None:
    door, caller = stack.gateway().door, testing.somebody()
    first = door.token(caller)
    assert door.token(caller) == first
    assert door.token(replace(caller, subject="staff:other")) != first
    for offset in (timedelta(minutes=10), timedelta(minutes=-10)):
        monkeypatch.setattr(app, "clock", lambda offset=offset: clock() + offset)
        anew = door.token(caller)
        assert anew != first
        assert door.token(caller) == anew
    monkeypatch.setattr(app, "clock", clock)
    assert stack.verifier.verify(door.token(caller)).subject == caller.subject
    later = app.monotonic() + app.TOKEN_SECONDS + 1
    monkeypatch.setattr(app, "monotonic", lambda: later)
    monkeypatch.setattr(app, "clock", lambda: clock() + timedelta(seconds=app.TOKEN_SECONDS + 1))
    assert door.token(caller) != anew


def test_the_deadline_the_service_gets_is_shorter_than_the_clients(stack) -> None:
    seen = []

    def remember(call, _request):
        seen.append(call.remaining())
        return analytics_pb2.GetFreshnessResponse()

    gateway = stack.gateway(addresses={"analytics": stack.service("analytics", {"GetFreshness": remember})})
    client = gateway.client("administrator")
    assert client.get(FRESHNESS, headers={"Request-Timeout": "2"}).status_code == 200
    assert client.get(FRESHNESS).status_code == 200
    assert 0 < seen[0] < 1.96
    assert 2 < seen[1] < 4.96


def test_one_trace_runs_from_the_client_to_the_service(stack) -> None:
    seen = []

    def remember(_call, _request):
        seen.append(trace.current_id())
        return analytics_pb2.GetFreshnessResponse()

    gateway = stack.gateway(addresses={"analytics": stack.service("analytics", {"GetFreshness": remember})})
    mine = uuid4().hex
    answer = gateway.client("administrator").get(FRESHNESS, headers={"traceparent": f"00-{mine}-{'1' * 16}-01"})
    assert answer.headers["Trace-Id"] == mine
    assert seen == [mine]
