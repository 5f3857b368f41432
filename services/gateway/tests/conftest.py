"""Whole gateways in this process: services, doors, identity provider and callers, all on real sockets."""

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import pytest
from flask import Flask
from werkzeug.serving import make_server

import onebox
from analytics import __main__ as analytics
from chassis import contract, identity, migrations, rpc, testing, trace
from chassis import store as stores
from chassis.errors import NotFound
from chassis.identity import Signer, Verifier
from chassis.rpc import Endpoint
from chassis.store import Store
from customer import __main__ as customer
from gateway import issuer, keys, policy
from gateway.app import Door, create_app
from gateway.callers import Callers, Issuer
from gateway.policy import Quota
from gateway.quota import Quotas
from gateway.store import SCHEMA
from gateway.upstreams import connect

PLENTY = Quota(1_000_000, 10)
GENEROUS = {"requests": PLENTY.requests, "seconds": PLENTY.seconds}
WANG = {
    "kind": "PERSON",
    "names": [{"full": "王芳", "kind": "LEGAL"}],
    "documents": [{"kind": "PASSPORT", "number": "E1234567", "region_code": "CN"}],
    "phones": [{"number": "13800138000", "kind": "MOBILE"}],
    "emails": [{"address": "fang.wang@example.com"}],
    "birthday": "1990-02-28",
    "interests": ["photography"],
}


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """The URL of an application on a socket of this machine."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Gateway:
    """A gateway that runs: where, with which door, and which keys it takes."""

    url: str
    door: Door
    store: Store

    def client(self, *roles: str, quota: dict[str, int] | None = None, **headers: str) -> httpx.Client:
        """Somebody new with a key for these roles."""
        kind = next(one for one in self.door.policy.authentication if one != "staff")
        key = keys.create(self.store, f"test-{uuid4().hex[:12]}", kind=kind, roles=list(roles), quota=quota)
        return self.with_headers(**{"X-Api-Key": key}, **headers)

    def with_headers(self, **headers: str) -> httpx.Client:
        """Somebody who sends these headers with every request."""
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, verify=False, trust_env=False)


@dataclass(frozen=True)
class Running:
    """A gateway process as it runs in production: its doors for everybody and for the operator, and a key for it."""

    port: int
    http_port: int
    key: str
    process: onebox.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def probe(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> Path:
        return self.process.log

    def client(self, **headers: str) -> httpx.Client:
        """Somebody with the key, who may do everything."""
        known = {"X-Api-Key": self.key, **headers}
        return httpx.Client(base_url=self.url, headers=known, timeout=30, trust_env=False)

    def connect(self) -> socket.socket:
        """A connection to the door for everybody on which nothing was said yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def head(self, line: str, *headers: str) -> bytes:
        """The head of a request with the key."""
        return "\r\n".join((f"{line} HTTP/1.1", "Host: x", f"X-Api-Key: {self.key}", *headers, "", "")).encode()


@dataclass(frozen=True)
class Stack:
    """The platform around the gateways."""

    uri: str
    private_key: str
    signer: Signer
    verifier: Verifier
    store: Store
    addresses: Mapping[str, str]
    provider: Issuer
    closing: ExitStack

    def gateway(self, name: str = "internal", *, addresses: Mapping[str, str] | None = None, **changes: Any) -> Gateway:
        """A gateway with one of the shipped policies, but for the changes."""
        rules = replace(policy.load_policy(name), **{"quota": PLENTY, **changes})
        known = {**self.addresses, **(addresses or {})}
        callers = Callers(self.store, rules, policy.load_roles(), self.provider)
        upstreams = connect(known, concurrency=rules.concurrency)
        door = Door(rules, callers, Quotas(self.store), upstreams, self.signer)
        return Gateway(self.serve(create_app(door)), door, self.store)

    @contextmanager
    def process(
        self, directory: Path, *, addresses: Mapping[str, str] | None = None, **changes: str
    ) -> Iterator[Running]:
        """A gateway as a process of its own, with its database as it is in a real installation."""
        opened = stores.connect(self.uri, "gateway", schema=SCHEMA)
        migrations.migrate(opened, SCHEMA)
        key = keys.create(
            opened, f"process-{uuid4().hex[:12]}", kind="channel", roles=["administrator"], quota=GENEROUS
        )
        opened.close()
        port, http_port = onebox.free_port(), onebox.free_port()
        given = {
            "MONGODB_URI": self.uri,
            "IDENTITY_KEY": self.private_key,
            "PORT": str(port),
            "HTTP_PORT": str(http_port),
        }
        known = {**self.addresses, **(addresses or {})}
        given |= {f"{name.upper()}_ADDRESS": address for name, address in known.items()}
        ready_url = f"http://127.0.0.1:{http_port}/readyz"
        process = onebox.start_service("gateway", module="gateway", role="serve", settings=given | changes,
                                       directory=directory, ready_url=ready_url)  # fmt: skip
        try:
            yield Running(port, http_port, key, process)
        finally:
            process.stop()

    def serve(self, app: Flask) -> str:
        """The URL of an application that is served until the end."""
        return self.closing.enter_context(served(app))

    def service(
        self, name: str, endpoints: Mapping[str, Endpoint], *, store: Store | None = None, port: int = 0
    ) -> str:
        """The address of a service that answers these operations and knows nothing of the others."""
        known = {one.method.name: unknown for one in contract.operations(upstream=name)} | dict(endpoints)
        port = port or testing.free_port()
        server = rpc.Server(name, store or self.store, self.verifier, known).start(port, host="127.0.0.1")
        self.closing.callback(lambda: server.stop(0).wait())
        return f"127.0.0.1:{port}"


def unknown(_call: rpc.Call, _request: Any) -> Any:
    raise NotFound("there is no such thing")


@pytest.fixture(scope="session")
def stack(mongodb_uri: str) -> Iterator[Stack]:
    """The services as they are, with the identity provider for development."""
    logging.getLogger("werkzeug").setLevel("ERROR")
    trace.configure("gateway")
    private, public = identity.generate("test")
    port = testing.free_port()
    provider = issuer.IssuerSettings(port=port, url=f"http://127.0.0.1:{port}")
    with ExitStack() as closing:
        store = closing.enter_context(testing.opened(mongodb_uri, SCHEMA))
        given = Issuer(provider.url, provider.audience, f"{provider.url}/jwks.json")
        built = Stack(
            mongodb_uri,
            private,
            identity.load_signer(private),
            identity.load_verifier(public),
            store,
            {},
            given,
            closing,
        )
        identity_provider = make_server("127.0.0.1", port, issuer.create_app(provider), threaded=True)
        Thread(target=identity_provider.serve_forever, daemon=True).start()
        closing.callback(identity_provider.shutdown)
        services = (customer.service(customer.CustomerSettings()), analytics.service())
        addresses = {}
        for one in services:
            opened = closing.enter_context(testing.opened(mongodb_uri, one.whole_schema))
            addresses[one.name] = built.service(one.name, one.endpoints, store=opened)
        yield replace(built, addresses=addresses)


@pytest.fixture(scope="session")
def running(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway process before the services as they are."""
    with stack.process(tmp_path_factory.mktemp("gateway")) as process:
        yield process


@pytest.fixture(scope="session")
def internal(stack: Stack) -> Gateway:
    return stack.gateway("internal")


@pytest.fixture(scope="session")
def public(stack: Stack) -> Gateway:
    return stack.gateway("public")


@pytest.fixture(scope="session")
def partner(stack: Stack) -> Gateway:
    return stack.gateway("partner")


@pytest.fixture(scope="session")
def administrator(internal: Gateway) -> httpx.Client:
    """Somebody who may do and see everything at the internal gateway."""
    return internal.client("administrator")


@pytest.fixture
def wang() -> dict[str, Any]:
    """A customer as a form sends her, with a phone number of her own."""
    return {**WANG, "phones": [{"number": f"+86138{uuid4().int % 10**8:08d}", "kind": "MOBILE"}]}


@pytest.fixture
def registered(administrator: httpx.Client, wang: dict[str, Any]) -> dict[str, Any]:
    """That customer, as the gateway answers when she is registered."""
    response = administrator.post("/v1/customers", json=wang, headers={"Idempotency-Key": str(uuid4())})
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer
