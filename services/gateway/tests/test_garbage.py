"""What is no HTTP, too much of it, or several requests at once: each is answered or refused, and no thread is lost."""

import json
from collections.abc import Iterator
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import intake

GET = "/v1/customers/C1"


def answers(running, data: bytes, *, half_close: bool = True) -> list[tuple[int, str, bytes]]:
    """The status, content type and body of every answer on one connection."""
    with running.connect() as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(1)
        received = b"".join(iter(lambda: received_from(connection), b""))
    return list(parsed(received))


def received_from(connection) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def parsed(received: bytes) -> Iterator[tuple[int, str, bytes]]:
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        yield int(first.split()[1]), headers["content-type"], received[:length]
        received = received[length:]


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400), (b"GET / HTTP/9.9\r\n\r\n", 400),
     (b"\0\0\0\0\r\n\r\n", 400), (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
     (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
     (b"GET / HTTP/1.1\r\n" + b"x" * 100_000, 431), (b"x" * 100_000, 431),
     (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: rot13\r\n\r\n", 501),
     (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
     (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
     (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n", 417),
     (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)],
)  # fmt: skip
def test_what_is_no_http_is_refused_with_a_problem(running, data: bytes, status: int) -> None:
    ((code, kind, body),) = answers(running, data)
    problem = json.loads(body)
    assert (code, kind, problem["status"]) == (status, "application/problem+json", status)
    assert problem["type"].startswith("urn:guanxi:problem:")
    assert problem["title"]
    assert problem["detail"]


def test_a_body_in_broken_chunks_is_the_clients_mistake(running) -> None:
    head = running.head("POST /v1/customers", "Content-Type: application/json", "Idempotency-Key: 12345678",
                        "Transfer-Encoding: chunked")  # fmt: skip
    for body in (
        b"zz\r\n",
        b"5\r\n{}\r\n",
        b"2\r\n{}xx0\r\n\r\n",
        b"-1\r\n\r\n",
        b"2;" + b"x" * 20_000 + b"\r\n{}\r\n",
    ):
        ((code, kind, _),) = answers(running, head + body)
        assert (code, kind) == (400, "application/problem+json"), body


def test_requests_sent_at_once_are_answered_in_their_order(running) -> None:
    paths = [f"/v1/nowhere/{number}" for number in range(50)]
    found = answers(running, b"".join(running.head(f"GET {path}") for path in paths))
    assert [json.loads(body)["instance"] for _, _, body in found] == paths


def test_requests_cut_anywhere_are_answered_like_whole_ones(running) -> None:
    body = b'{"kind": "ALIEN"}'
    post = running.head("POST /v1/customers", "Content-Type: application/json", "Idempotency-Key: 12345678",
                        f"Content-Length: {len(body)}")  # fmt: skip
    data = (post + body + running.head("GET /v1/nowhere")) * 3
    for size in (1, 7, len(post) + 3, len(data) - 1):
        with running.connect() as connection:
            for start in range(0, len(data), size):
                connection.sendall(data[start : start + size])
            connection.shutdown(1)
            received = b"".join(iter(lambda connection=connection: connection.recv(65536), b""))
        assert [code for code, _, _ in parsed(received)] == [400, 404] * 3


def test_garbage_behind_a_request_takes_no_answer_from_it(running) -> None:
    codes = [code for code, _, _ in answers(running, running.head("GET /v1/nowhere") + b"\0garbage\r\n\r\n")]
    assert codes == [404, 400]


def test_a_client_that_asks_whether_to_send_its_body_is_told_to(running) -> None:
    head = running.head("POST /v1/customers", "Content-Type: application/json", "Idempotency-Key: 12345678",
                        "Content-Length: 2", "Expect: 100-continue")  # fmt: skip
    with running.connect() as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(b"{}")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


def test_much_garbage_leaves_every_thread_free(running) -> None:
    garbage = [b"\0" * 200 + b"\r\n\r\n" * 50, b"GET / HTTP/1.1\r\n\r\n" * 20, b"\r\n" * 100, b"\xff" * 70_000]
    connections = [running.connect() for _ in range(100)]
    for number, connection in enumerate(connections):
        connection.sendall(garbage[number % len(garbage)])
    started = monotonic()
    with running.client() as client:
        assert client.get("/v1/customers").status_code == 200
    assert monotonic() - started < 4
    for connection in connections:
        connection.close()


HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.data())
def test_a_request_is_whole_when_its_last_byte_is_there_and_not_before(body: bytes, data) -> None:
    whole = HEAD % len(body) + body
    cut = data.draw(st.integers(0, len(whole)))
    assert intake.is_whole(whole[:cut]) == (cut == len(whole))


@pytest.mark.parametrize(
    ("head", "held"),
    [({}, True), ({"Content-Length": "0"}, True), ({"Content-Length": str(intake.MOST_BODY)}, True),
     ({"Content-Length": str(intake.MOST_BODY + 1)}, False), ({"Content-Length": "9" * 30}, False),
     ({"Transfer-Encoding": "chunked"}, False), ({"Content-Length": "5", "Expect": "100-continue"}, False)],
)  # fmt: skip
def test_a_thread_waits_for_a_body_exactly_when_it_was_not_taken_in(head: dict[str, str], held: bool) -> None:
    text = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    taken = f"POST / HTTP/1.1\r\n{text}\r\n".encode()
    assert intake.holds(head) == held
    if not held:
        assert intake.is_whole(taken)
