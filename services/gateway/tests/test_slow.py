"""Clients that send or take slowly, or nothing, or nonsense: each loses its connection, and nobody waits for them."""

import itertools
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest
from crm.customer.v1 import customer_pb2, transfer_pb2
from google.api import httpbody_pb2

from chassis.errors import NotFound

GET = "/v1/customers/C1"
FILE, REFUSED = "/v1/customer-imports/42/file", "/v1/customer-imports/refused/file"
MANY = 35  # more than a gateway has threads
PROMPT_SECONDS = 4.0  # far less than any limit a slow client runs into
PIECE = b"x" * 250_000


@pytest.fixture(scope="module")
def patient(stack, tmp_path_factory):
    """A gateway process before a service that answers at once, whose exports are endless."""

    def get(_call, request):
        return customer_pb2.GetCustomerResponse(customer=customer_pb2.Customer(customer_id=request.customer_id))

    def upload(_call, requests):
        for one in requests:
            if one.import_id == "refused":
                raise NotFound("there is no such import")
        return transfer_pb2.UploadImportResponse(job={"import_id": "42"})

    def export(_call, _request):
        while True:
            yield httpbody_pb2.HttpBody(content_type="text/csv", data=PIECE)

    endpoints = {"GetCustomer": get, "UploadImport": upload, "ExportCustomers": export}
    address = stack.service("customer", endpoints)
    with stack.process(tmp_path_factory.mktemp("patient"), addresses={"customer": address}) as process:
        yield process


def prompt(running) -> float:
    """The seconds that somebody new waits for an answer."""
    started = monotonic()
    with running.client() as client:
        answer = client.get(GET)
    assert answer.status_code == 200, answer.text
    return monotonic() - started


def until_cut(connection: socket.socket, data: bytes) -> float:
    """Sends a byte a second, takes what comes, and returns after how many seconds the connection was gone."""
    started = monotonic()
    connection.settimeout(1)
    for number in itertools.count():
        try:
            connection.send(data[number % len(data) :][:1])
            if not connection.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return monotonic() - started


def starts(running) -> dict[str, tuple[bytes, bytes, float]]:
    """What slow clients send at once, what they drip then, and the seconds within which they are cut off."""
    json = ("POST /v1/customers", "Content-Type: application/json", "Idempotency-Key: 12345678")
    stranger = b"POST /v1/customers HTTP/1.1\r\nHost: x\r\nX-Api-Key: x\r\nContent-Length: 5000\r\n\r\n"
    return {
        "head": (b"GET /v1/cust", b"omers", 20),
        "head after an answer": (running.head(f"GET {GET}") + b"GET /v1/cust", b"omers", 20),
        "body": (running.head(*json, "Content-Length: 5000") + b"{", b" ", 20),
        "long body": (running.head(*json, "Content-Length: 500000") + b"{", b" ", 20),
        "body in chunks": (running.head(*json, "Transfer-Encoding: chunked"), b"1\r\n \r\n", 20),
        "body of a stranger": (stranger, b" ", 20),
        "file": (running.head(f"PUT {FILE}", "Content-Length: 5000000") + b"name\n", b"x", 45),
    }


@pytest.fixture(scope="module")
def crowd(patient) -> Iterator[tuple[dict[str, list[float]], list[float]]]:
    """For each way to be slow how long its clients were borne, and how long others waited meanwhile."""
    known = starts(patient)
    with ThreadPoolExecutor(MANY * len(known)) as pool, ExitStack() as closing:
        borne = {}
        for name, (start, rest, _) in known.items():
            crowd = [closing.enter_context(patient.connect()) for _ in range(MANY)]
            for one in crowd:
                one.sendall(start)
            borne[name] = [pool.submit(until_cut, one, rest) for one in crowd]
        sleep(2)  # so many at once are a flood of their own
        waits = []
        for _ in range(10):
            waits.append(prompt(patient))
            sleep(0.5)
        yield {name: [one.result() for one in found] for name, found in borne.items()}, waits


@pytest.mark.slow
def test_nobody_waits_for_clients_that_drip(crowd) -> None:
    assert max(crowd[1]) < PROMPT_SECONDS, crowd


@pytest.mark.slow
@pytest.mark.parametrize("what", ["head", "head after an answer", "body", "long body", "body in chunks",
                                  "body of a stranger", "file"])  # fmt: skip
def test_a_client_that_drips_is_cut_off(patient, crowd, what: str) -> None:
    assert max(crowd[0][what]) < starts(patient)[what][2]


@pytest.mark.slow
def test_a_refused_file_holds_no_thread_however_slowly_its_rest_comes(patient) -> None:
    head = patient.head(f"PUT {REFUSED}", "Content-Length: 5000000")
    with ExitStack() as closing:
        for _ in range(MANY):
            one = closing.enter_context(patient.connect())
            one.sendall(head + PIECE * 2)
            sleep(0.1)
            assert prompt(patient) < PROMPT_SECONDS
        started = monotonic()
        assert one.recv(65536).startswith(b"HTTP/1.1 404")
        assert monotonic() - started < PROMPT_SECONDS


@pytest.mark.slow
def test_connections_that_say_nothing_cost_nobody_a_thread_and_end(patient) -> None:
    with ExitStack() as closing:
        silent = [closing.enter_context(patient.connect()) for _ in range(200)]
        assert max(prompt(patient) for _ in range(20)) < PROMPT_SECONDS
        assert silent[0].recv(1) == b""
        assert silent[-1].recv(1) == b""


@pytest.mark.slow
def test_more_silent_connections_than_a_gateway_holds_push_out_each_other(patient) -> None:
    with ExitStack() as closing:
        for _ in range(1200):
            closing.enter_context(patient.connect())
        assert prompt(patient) < PROMPT_SECONDS


def worker_of(running) -> int:
    """The process that serves, below the one that was started."""
    pid = running.process.popen.pid
    children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return next(one for one in children if "python" in Path(f"/proc/{one}/exe").readlink().name)


@pytest.mark.slow
def test_a_gateway_that_may_open_no_more_connections_lets_go_of_silent_ones(patient) -> None:
    worker = worker_of(patient)
    assert prompt(patient) < PROMPT_SECONDS
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    opened = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (opened + 20, before[1]))
    try:
        with ExitStack() as closing:
            for _ in range(60):
                closing.enter_context(patient.connect())
            sleep(1)
            assert prompt(patient) < PROMPT_SECONDS
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
    assert worker_of(patient) == worker


@pytest.mark.slow
def test_nobody_waits_for_clients_that_do_not_take_their_answer(patient) -> None:
    with ExitStack() as closing:
        for _ in range(MANY):
            one = closing.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect(("127.0.0.1", patient.port))
            one.sendall(patient.head("GET /openapi.json"))
        sleep(1)
        assert max(prompt(patient) for _ in range(5)) < PROMPT_SECONDS


def taken_slowly(connection: socket.socket) -> float:
    """Takes a little of an answer each second; returns after how many seconds there is no more."""
    started = monotonic()
    while True:
        try:
            if not connection.recv(100):
                break
        except OSError:
            break
        sleep(1)
    return monotonic() - started


@pytest.mark.slow
def test_clients_that_take_an_export_too_slowly_give_their_places_back(patient) -> None:
    with ExitStack() as closing, patient.client() as client:
        for _ in range(6):
            one = closing.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect(("127.0.0.1", patient.port))
            one.sendall(patient.head("GET /v1/customers:export"))
        sleep(1)
        busy = client.get("/v1/customers:export")
        assert (busy.status_code, busy.json()["type"]) == (503, "urn:guanxi:problem:busy")
        assert prompt(patient) < PROMPT_SECONDS
        ends = monotonic() + 60
        while not has_place(client):
            assert monotonic() < ends
            sleep(1)


def has_place(client: httpx.Client) -> bool:
    with client.stream("GET", "/v1/customers:export") as answer:
        return answer.status_code == 200
