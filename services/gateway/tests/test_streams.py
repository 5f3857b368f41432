"""Files through the gateway: any size, in pieces, whole or not at all."""

import hashlib
import os
import socket
from threading import Event
from urllib.parse import urlsplit

import pytest
from crm.customer.v1 import transfer_pb2
from google.api import httpbody_pb2

from chassis.errors import Conflict, NotFound
from gateway import streams

FILE = "/v1/customer-imports/42/file"
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def files(stack):
    """A gateway before a service that keeps what it was sent, and how it ended."""
    kept: dict[str, object] = {"ended": Event()}

    def upload(_call, requests):
        kept["ended"].clear()
        kept["whole"] = False
        pieces, digest, first = [], hashlib.sha256(), None
        try:
            for one in requests:
                first = first or one
                if one.import_id == "refused":
                    raise NotFound("there is no such import")
                pieces.append(len(one.content.data))
                digest.update(one.content.data)
            kept["whole"] = pieces[-1] == 0
        finally:
            kept.update(pieces=pieces, digest=digest.hexdigest(), kind=first.content.content_type if first else "")
            kept["ended"].set()
        return transfer_pb2.UploadImportResponse(job={"import_id": first.import_id, "size_bytes": sum(pieces)})

    def export(_call, request):
        if request.kind:
            raise Conflict("not now", reason="BUSY_EXPORTING")
        for number in range(40):
            yield httpbody_pb2.HttpBody(content_type="text/csv", data=b"%07d\n" % number * 16_000)
            if number == 20 and request.format:
                raise RuntimeError("secret 13800138000")

    address = stack.service("customer", {"UploadImport": upload, "ExportCustomers": export})
    return stack.gateway(addresses={"customer": address}), kept


def test_a_file_of_many_megabytes_arrives_in_small_pieces(files) -> None:
    gateway, kept = files
    data = os.urandom(5 * MEGABYTE + 17)
    answer = gateway.client("loader").put(FILE, content=data, headers={"Content-Type": "text/csv"})
    assert (answer.status_code, answer.json()["size_bytes"]) == (200, str(len(data)))
    assert kept["digest"] == hashlib.sha256(data).hexdigest()
    assert max(kept["pieces"]) <= streams.PIECE_BYTES
    assert kept["kind"] == "text/csv"


def test_a_file_without_a_length_arrives_too(files) -> None:
    gateway, kept = files
    parts = [os.urandom(100_000) for _ in range(20)]
    answer = gateway.client("loader").put(FILE, content=iter(parts))
    assert answer.status_code == 200
    assert kept["digest"] == hashlib.sha256(b"".join(parts)).hexdigest()


def test_an_empty_file_is_a_file(files) -> None:
    gateway, kept = files
    assert gateway.client("loader").put(FILE, content=b"").json()["size_bytes"] == "0"
    assert kept["pieces"] == [0]


def test_half_a_file_is_never_taken_for_a_whole_one(files) -> None:
    gateway, kept = files
    client, address = gateway.client("loader"), urlsplit(gateway.url)
    kept["ended"].clear()
    with socket.create_connection((address.hostname, address.port)) as connection:
        key = client.headers["X-Api-Key"]
        head = f"PUT {FILE} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Length: 900000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 300_000)
    assert kept["ended"].wait(10)
    assert kept["whole"] is False


def test_a_refusal_ends_the_upload(files) -> None:
    gateway, _ = files
    answer = gateway.client("loader").put("/v1/customer-imports/refused/file", content=b"x" * 100_000)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")


def test_an_export_comes_as_it_is_made(files) -> None:
    gateway, _ = files
    with gateway.client("loader").stream("GET", "/v1/customers:export") as answer:
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/csv")
        assert "Content-Length" not in answer.headers
        lines = b"".join(answer.iter_bytes()).splitlines()
    assert lines == [b"%07d" % number for number in range(40) for _ in range(16_000)]


def test_an_export_that_cannot_begin_is_a_problem(files) -> None:
    gateway, _ = files
    answer = gateway.client("loader").get("/v1/customers:export", params={"kind": "PERSON"})
    assert (answer.status_code, answer.json()["detail"]) == (409, "not now")


def test_clients_that_leave_a_download_give_their_place_back(files) -> None:
    gateway, _ = files
    client = gateway.client("loader")
    for _ in range(3 * gateway.door.policy.concurrency):
        with client.stream("GET", "/v1/customers:export") as answer:
            assert answer.status_code == 200
            next(answer.iter_raw())
    assert client.head("/v1/customers:export").status_code == 200


def test_long_files_do_not_take_the_places_of_short_calls(stack) -> None:
    free = Event()

    def slow(_call, _request):
        yield httpbody_pb2.HttpBody(content_type="text/csv", data=b"a")
        free.wait(20)

    address = stack.service("customer", {"ExportCustomers": slow})
    client = stack.gateway(addresses={"customer": address}, concurrency=1).client("administrator")
    with client.stream("GET", "/v1/customers:export") as answer:
        assert answer.status_code == 200
        assert client.get("/v1/customers:export").json()["type"] == "urn:guanxi:problem:busy"
        assert client.get("/v1/customers/C1").status_code == 404
        free.set()
        assert answer.read() == b"a"
