"""More than a gateway can answer: what it admits is answered in time, the rest is told at once to come back."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from threading import Event
from time import monotonic, sleep
from uuid import uuid4

import httpx
import pytest
from crm.analytics.v1 import analytics_pb2
from crm.customer.v1 import customer_pb2

from chassis import store as stores
from gateway import keys
from gateway.store import SCHEMA

GET = "/v1/customers/C1"
FRESHNESS = "/v1/analytics/freshness"
SHED = 'crm_http_refused_total{reason="overload"} '
SLOW_SECONDS = 0.2
CLIENTS = 96  # four times as many as a service may have
FLOOD_SECONDS = 6
ADMITTED_SECONDS = 4  # with much to spare: both ends of the flood share two cores here


@pytest.fixture
def free() -> Iterator[Event]:
    """Set, it lets go of every call that hangs."""
    event = Event()
    yield event
    event.set()


@pytest.fixture
def slow(stack, tmp_path):
    """A gateway process before a customer service that takes its time."""

    def get(_call, request):
        sleep(SLOW_SECONDS)
        return customer_pb2.GetCustomerResponse(customer=customer_pb2.Customer(customer_id=request.customer_id))

    address = stack.service("customer", {"GetCustomer": get})
    with stack.process(tmp_path, addresses={"customer": address}) as process:
        yield process


@pytest.fixture
def hanging(stack, tmp_path, free: Event):
    """A gateway process before two services that hang."""

    def get(_call, request):
        free.wait(30)
        return customer_pb2.GetCustomerResponse(customer=customer_pb2.Customer(customer_id=request.customer_id))

    def freshness(_call, _request):
        free.wait(30)
        return analytics_pb2.GetFreshnessResponse()

    addresses = {
        "customer": stack.service("customer", {"GetCustomer": get}),
        "analytics": stack.service("analytics", {"GetFreshness": freshness}),
    }
    with stack.process(tmp_path, addresses=addresses) as process:
        yield process


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


def asked(connection: HTTPConnection, key: str, path: str = GET, **headers: str) -> Answer:
    started = monotonic()
    connection.request("GET", path, headers={"X-Api-Key": key, **headers})
    found = connection.getresponse()
    body = found.read()
    return Answer(
        found.status, {name.lower(): value for name, value in found.getheaders()}, body, monotonic() - started
    )


def flood(running, key: str, until: float, *, anew: bool) -> list[Answer]:
    """Asks without a pause; with a connection for each request, or one for all."""
    answers = []
    connection = HTTPConnection("127.0.0.1", running.port, timeout=60)
    while monotonic() < until:
        answers.append(asked(connection, key))
        if anew or answers[-1].headers.get("connection") == "close":
            connection.close()
    connection.close()
    return answers


def check(answer: Answer) -> None:
    """What is not answered is refused in a form that says when to come back."""
    if answer.status == 200:
        assert json.loads(answer.body)["customer_id"] == "C1"
        return
    assert answer.status in (429, 503), answer
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status
    assert problem["type"].startswith("urn:guanxi:problem:")


@pytest.fixture
def limited(stack) -> str:
    """The key of somebody who may ask little."""
    opened = stores.connect(stack.uri, "gateway", schema=SCHEMA)
    key = keys.create(opened, f"limited-{uuid4().hex[:8]}", kind="channel", roles=["administrator"],
                      quota={"requests": 50, "seconds": 1000})  # fmt: skip
    opened.close()
    return key


@pytest.mark.slow
def test_a_flood_is_shed_what_is_admitted_is_in_time_and_all_is_well_right_after(slow, limited: str) -> None:
    until = monotonic() + FLOOD_SECONDS
    with ThreadPoolExecutor(CLIENTS) as pool:
        crowd = [
            pool.submit(flood, slow, limited if number % 4 == 3 else slow.key, until, anew=number % 2 == 0)
            for number in range(CLIENTS)
        ]
        answers = [answer for one in crowd for answer in one.result()]
    after = asked(HTTPConnection("127.0.0.1", slow.port), slow.key)
    for answer in answers:
        check(answer)
    admitted = [answer.seconds for answer in answers if answer.status == 200]
    assert len(admitted) > 2 * CLIENTS
    assert {answer.status for answer in answers} == {200, 429, 503}
    assert max(admitted) < ADMITTED_SECONDS
    assert max(answer.seconds for answer in answers) < ADMITTED_SECONDS
    assert (after.status, after.seconds < 2) == (200, True)


@pytest.mark.slow
def test_who_finds_no_thread_free_is_told_so_soon_and_not_when_one_becomes_free(hanging, free: Event) -> None:
    with ThreadPoolExecutor(100) as pool:
        held = [
            pool.submit(asked, HTTPConnection("127.0.0.1", hanging.port), hanging.key, path, **{"Request-Timeout": "9"})
            for path in [GET, FRESHNESS] * 24
        ]
        sleep(1)
        others = [
            pool.submit(asked, HTTPConnection("127.0.0.1", hanging.port), hanging.key, "/v1/x") for _ in range(40)
        ]
        shed = [one.result() for one in others]
        assert sum(one.done() for one in held) <= len(held) - 32
        free.set()
        for one in held:
            assert one.result().status in (200, 503)
    for answer in shed:
        check(answer)
        assert json.loads(answer.body)["type"] == "urn:guanxi:problem:overload"
        assert answer.seconds < ADMITTED_SECONDS
    assert asked(HTTPConnection("127.0.0.1", hanging.port), hanging.key).status == 200
    measured = httpx.get(f"{hanging.probe}/metrics", trust_env=False).text
    counted = next(line for line in measured.splitlines() if line.startswith(SHED))
    assert float(counted.removeprefix(SHED)) >= len(shed)


@pytest.mark.slow
def test_a_gateway_that_is_told_to_stop_says_so_answers_on_and_ends(slow) -> None:
    kept = HTTPConnection("127.0.0.1", slow.port, timeout=10)
    assert asked(kept, slow.key).status == 200
    silent = [slow.connect() for _ in range(20)]
    started = monotonic()
    slow.process.popen.send_signal(signal.SIGTERM)
    sleep(0.3)
    ready = httpx.get(f"{slow.probe}/readyz", trust_env=False)
    assert (ready.status_code, ready.json()) == (503, {"problems": ["stopping"]})
    assert httpx.get(f"{slow.probe}/healthz", trust_env=False).status_code == 200
    with ThreadPoolExecutor(8) as pool:
        late = [pool.submit(asked, HTTPConnection("127.0.0.1", slow.port), slow.key) for _ in range(8)]
        assert [one.result().status for one in late] == [200] * 8
    assert asked(kept, slow.key).status == 200
    assert slow.process.popen.wait(20) == 0
    assert monotonic() - started < 12
    for one in silent:
        one.close()


@pytest.mark.slow
def test_what_is_under_way_when_a_gateway_is_told_to_stop_is_answered(hanging, free: Event) -> None:
    with ThreadPoolExecutor(4) as pool:
        under_way = [
            pool.submit(asked, HTTPConnection("127.0.0.1", hanging.port), hanging.key, GET, **{"Request-Timeout": "10"})
            for _ in range(4)
        ]
        sleep(1)
        hanging.process.popen.send_signal(signal.SIGTERM)
        sleep(4)
        free.set()
        assert [one.result().status for one in under_way] == [200] * 4
    assert hanging.process.popen.wait(20) == 0
