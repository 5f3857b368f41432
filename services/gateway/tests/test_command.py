"""The command line: keys, bad settings, and a server that keeps what it hears to itself."""

import json
import os
import re
import socket
import subprocess
import sys
from uuid import uuid4

import httpx
import pytest

from chassis import migrations, store
from chassis.errors import Unauthenticated
from chassis.events import clock
from gateway import keys
from gateway.store import CLIENTS, SCHEMA

CANARY = "13912345678"
SHOP, TYPO = (f"{name}-{uuid4().hex[:8]}" for name in ("shop", "typo"))


@pytest.fixture(scope="module")
def settings(stack, mongodb_uri: str) -> dict[str, str]:
    """What a gateway needs to start, with its database as it is in a real installation."""
    opened = store.connect(mongodb_uri, "gateway", schema=SCHEMA)
    migrations.migrate(opened, SCHEMA)
    opened.close()
    return {"MONGODB_URI": mongodb_uri, "IDENTITY_KEY": stack.private_key}


def gateway(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **settings}
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_key_is_made_replaced_and_disabled(settings: dict[str, str], mongodb_uri: str) -> None:
    made = gateway(
        "keys", "create", SHOP, "--role", "web", "--role", "app", "--quota", '{"requests": 9, "seconds": 1}', **settings
    )
    assert made.returncode == 0, made.stderr
    opened = store.connect(mongodb_uri, "gateway", schema=SCHEMA)
    client = keys.authenticate(opened, made.stdout.strip(), clock())
    assert (client.client_id, client.roles, client.quota) == (SHOP, ("web", "app"), {"requests": 9, "seconds": 1})
    rotated = gateway("keys", "rotate", SHOP, **settings)
    assert keys.authenticate(opened, rotated.stdout.strip(), clock()).client_id == SHOP
    assert gateway("keys", "disable", SHOP, **settings).stdout == f"{SHOP} is disabled\n"
    with pytest.raises(Unauthenticated):
        keys.authenticate(opened, rotated.stdout.strip(), clock())
    again = gateway("keys", "create", SHOP, "--role", "web", **settings)
    assert (again.returncode, again.stderr.strip()) == (1, f"the client {SHOP} exists: rotate its key instead")
    opened.close()


def test_a_key_for_a_role_that_is_not_there_is_refused(settings: dict[str, str], mongodb_uri: str) -> None:
    refused = gateway(
        "keys", "create", TYPO, "--role", "webb", "--role", "rot", "--quota", '{"requests": 0}', **settings
    )
    assert refused.returncode == 2
    assert "no such role: rot, webb" in refused.stderr
    assert "--quota" in refused.stderr
    assert gateway("keys", "create", TYPO, **settings).returncode == 2
    opened = store.connect(mongodb_uri, "gateway", schema=SCHEMA)
    assert opened[CLIENTS].find_one({"_id": TYPO}) is None
    opened.close()


def test_an_unknown_client_cannot_be_rotated_or_disabled(settings: dict[str, str]) -> None:
    for action in ("rotate", "disable", "enable"):
        answer = gateway("keys", action, "nobody", **settings)
        assert (answer.returncode, answer.stderr.strip()) == (1, "there is no client 'nobody'")


def test_bad_settings_are_all_listed_at_once() -> None:
    missing = gateway("serve", PORT="eighty", HTTP_PORT="x")
    assert missing.returncode == 2
    for words in ("MONGODB_URI (or MONGODB_URI_FILE) is required", "PORT must be a whole number", "HTTP_PORT must be"):
        assert words in missing.stderr
    wrong = gateway("serve", MONGODB_URI="mongodb://x", IDENTITY_KEY="{}", POLICY="secret", ACCESS_FILE="/nowhere",
                    THREADS="4", OIDC_ISSUER="https://id.example")  # fmt: skip
    assert wrong.returncode == 2
    named = set(re.findall(r"^  (\w+) cannot be used", wrong.stderr, flags=re.MULTILINE))
    assert named == {"IDENTITY_KEY", "POLICY", "ACCESS_FILE", "OIDC_JWKS_URI"}


def test_threads_must_outnumber_the_places_of_one_service(settings: dict[str, str]) -> None:
    answer = gateway("serve", THREADS="30", **settings)
    assert (answer.returncode, "30 threads of 30" in answer.stderr) == (2, True)


def raw(running, text: bytes) -> bytes:
    with running.connect() as connection:
        connection.sendall(text)
        return connection.recv(65536)


def test_no_part_of_a_request_reaches_log_or_metrics(running) -> None:
    client = running.client()
    assert client.get("/v1/customers:search", params={"query": CANARY}).status_code == 200
    client.get(f"/v1/customers/{CANARY}")
    client.get(f"/{CANARY}")
    client.request(f"X{CANARY}", "/v1/customers")
    client.post("/v1/customers", json={CANARY: CANARY}, headers={"Idempotency-Key": f"{CANARY}-key"})
    client.get("/v1/customers", headers={"Request-Timeout": CANARY, "traceparent": CANARY})
    for line in (f"GET /v1/customers:search?query={CANARY} and more HTTP/1.1", f"{CANARY}", f"GET / HTTP/{CANARY}"):
        assert raw(running, f"{line}\r\nHost: x\r\n\r\n".encode()).startswith(b"HTTP/1.1 400")
    raw(running, f"GET /v1/customers HTTP/1.1\r\nHost: x\r\n{CANARY} : x\r\n\r\n".encode())
    written = running.log.read_text()
    assert CANARY not in written
    assert '"route":"GET /v1/customers:search"' in written
    assert '"message":"http server"' in written
    measured = httpx.get(f"{running.probe}/metrics", trust_env=False).text
    assert CANARY not in measured
    assert 'route="OTHER unknown"' in measured
    assert all(json.loads(line)["service"] == "gateway" for line in written.splitlines() if line.startswith("{"))


def test_the_server_of_production_keeps_the_same_limits(running) -> None:
    client = running.client()
    headers = {**client.headers, "Content-Type": "application/json", "Idempotency-Key": "12345678"}
    huge = [b'{"kind": "' + b"x" * 600_000, b"x" * 600_000 + b'"}']
    for body in (b"".join(huge), iter(huge)):
        assert (
            httpx.post(f"{running.url}/v1/customers", content=body, headers=headers, trust_env=False).status_code == 413
        )
    assert client.get("/v1/customers").status_code == 200


@pytest.mark.parametrize(
    ("framing", "part"),
    [("Content-Length: 900000", b"name\n" + b"x" * 300_000), ("Transfer-Encoding: chunked", b"5\r\nname\n\r\n"),
     ("Transfer-Encoding: chunked", b"5\r\nname\n\r\nzz\r\n"), ("Transfer-Encoding: chunked", b"5\r\nna")],
)  # fmt: skip
def test_half_a_file_starts_no_import(running, framing: str, part: bytes) -> None:
    client = running.client()
    made = client.post("/v1/customer-imports", json={"format": "CSV"}, headers={"Idempotency-Key": str(uuid4())})
    path = made.headers["Location"]
    with running.connect() as connection:
        connection.sendall(running.head(f"PUT {path}/file", framing) + part)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert not answer.startswith(b"HTTP/1.1 2")
    assert client.get(path).json()["status"] == "CREATED"
    whole = client.put(f"{path}/file", content=b"name,phone\nWang Fang,13800138000\n")
    assert (whole.status_code, whole.json()["status"]) == (200, "RUNNING")
