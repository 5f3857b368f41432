"""The whole platform as processes: personal data stays where it belongs, and one trace joins everything."""

import gzip
import http.server
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pika
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import stack
from simulator.people import chinese_name
from stack import Stack

pytestmark = pytest.mark.slow


@dataclass
class Sink:
    """Takes traces as a collector does."""

    bodies: list[bytes] = field(default_factory=list)
    url: str = ""

    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span for one in requests for of in one.resource_spans for scope in of.scope_spans for span in scope.spans
        ]


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    found = Sink()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, sink: Sink) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("platform")
    with stack.running(directory, settings={"OTLP_ENDPOINT": sink.url}) as running:
        yield running


@pytest.fixture
def office(platform: Stack) -> Iterator[httpx.Client]:
    headers = {"X-Api-Key": platform.keys["back-office"]}
    with httpx.Client(base_url=platform.urls["internal"], headers=headers, timeout=20) as client:
        yield client


def post(client: httpx.Client, path: str, body: Any) -> httpx.Response:
    return client.post(path, json=body, headers={"Idempotency-Key": str(uuid4())})


def until(holds: Any, seconds: float = 30) -> bool:
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.2)
    return True


@dataclass
class Canary:
    """One person whose every value is unlike anything else."""

    number: int

    def __post_init__(self) -> None:
        from random import Random

        mark = f"zq{self.number:04d}x"
        self.name = f"{chinese_name(Random(self.number))}{mark}"
        self.phone = f"+86139{55500000 + self.number}"
        self.email = f"{mark}@canary.example"
        self.document = f"QX{99000000 + self.number}"
        self.street = f"{mark} street"
        self.summary = f"told us {mark} secret"
        self.secrets = (mark, mark.upper(), self.name, self.phone, self.phone[3:], self.email, self.document)

    def body(self) -> dict[str, Any]:
        return {
            "kind": "PERSON",
            "names": [{"full": self.name}],
            "phones": [{"number": self.phone}],
            "emails": [{"address": self.email}],
            "documents": [{"kind": "PASSPORT", "number": self.document}],
            "addresses": [{"postal_address": {"region_code": "CN", "address_lines": [self.street]}}],
        }


def live(office: httpx.Client, one: Canary) -> None:
    """Everything a person goes through, mistakes included."""
    made = post(office, "/v1/customers", one.body()).json()
    path = f"/v1/customers/{made['customer_id']}"
    for query in (one.name, one.phone, one.email, one.document):
        assert office.get("/v1/customers:search", params={"query": query}).json()["results"]
    contact = {"channel": "STORE", "direction": "INBOUND", "summary": one.summary}
    assert post(office, f"{path}/interactions", {"topic": "billing", "contact": contact}).status_code == 201
    changed = {"interests": [one.street]}
    assert office.patch(path, json=changed, headers={"If-Match": '"1"'}).status_code == 200
    # Wrong in every way a client can be wrong.
    assert post(office, "/v1/customers", one.body() | {"birthday": one.name}).status_code == 400
    assert post(office, "/v1/customers", one.body() | {one.email: 1}).status_code == 400
    assert office.get(f"/v1/customers/{one.email}").status_code == 404
    assert office.get(f"/{one.name}").status_code == 404
    assert office.get("/v1/customers", params={"page_token": one.document}).status_code == 400
    assert office.get("/v1/customers", params={one.email: "x"}).status_code == 400
    assert office.patch(path, json=changed, headers={"If-Match": '"1"'}).status_code == 412


def take_in(office: httpx.Client, people: list[Canary]) -> None:
    job = post(office, "/v1/customer-imports", {"format": "CSV"}).json()
    rows = "".join(f"{one.name},{one.phone},{one.email}\n{one.name},{one.document},{one.email}\n" for one in people)
    path = f"/v1/customer-imports/{job['import_id']}"
    office.put(f"{path}/file", content=f"name,phone,email\n{rows}".encode()).raise_for_status()
    assert until(lambda: office.get(path).json()["status"] == "COMPLETED")
    assert office.get(path).json()["rejected"] == len(people)
    assert people[0].name in office.get(f"{path}/rejected").text


def listen(platform: Stack) -> tuple[Any, str]:
    """A queue of our own that gets every event."""
    connection = pika.BlockingConnection(pika.URLParameters(platform.broker.uri))
    channel = connection.channel()
    name = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(name, "crm.events", "#")
    return channel, name


def test_personal_data_reaches_no_log_no_metric_no_trace_and_no_routing_key(
    platform: Stack, office: httpx.Client, sink: Sink
) -> None:
    channel, queue = listen(platform)
    people = [Canary(number) for number in range(12)]
    for one in people[:6]:
        live(office, one)
    take_in(office, people[6:])
    events = int(office.get("/v1/analytics/freshness").json()["facts"])
    assert until(lambda: int(office.get("/v1/analytics/freshness").json()["facts"]) >= events)
    time.sleep(6)  # spans are exported in batches, every five seconds
    outside = {path.name: path.read_text("utf-8", "replace") for path in Path(platform.directory).glob("*.log")}
    for part in platform.parts.values():
        if part.name != "issuer":
            metrics = part.ready_url.replace("/readyz", "/metrics")
            outside[f"metrics of {part.name}"] = httpx.get(metrics, trust_env=False).text
    outside["traces"] = "".join(str(span) for span in sink.spans()) + repr(b"".join(sink.bodies))
    outside["messages' outsides"] = "".join(envelopes(channel, queue))
    assert len(sink.spans()) > 100
    assert outside["messages' outsides"].count("CustomerRegistered") >= 12
    talkative = ("customer.log", "gateway-internal.log", "metrics of customer", "metrics of gateway-internal")
    assert all(len(outside[name]) > 300 for name in talkative)
    leaks = [
        (where, secret)
        for where, text in outside.items()
        for one in people
        for secret in one.secrets
        if secret in text or json.dumps(secret).strip('"') in text
    ]
    assert leaks == []


def envelopes(channel: Any, queue: str) -> Iterator[str]:
    while True:
        method, properties, _body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            channel.connection.close()
            return
        yield f"{method.routing_key} {properties.headers} {properties.type} {properties.message_id}"


def test_one_trace_joins_gateway_call_transaction_event_and_consumer(office: httpx.Client, sink: Sink) -> None:
    trace, span = uuid4().hex, "00f067aa0ba902b7"
    headers = {"Idempotency-Key": str(uuid4()), "traceparent": f"00-{trace}-{span}-01"}
    made = office.post("/v1/customers", json=Canary(500).body(), headers=headers)
    assert made.headers["Trace-Id"] == trace
    wanted = {
        "POST /v1/customers",
        "crm.customer.v1.CustomerService/RegisterCustomer",
        "apply crm.customer.v1.CustomerRegistered",
    }
    assert until(lambda: wanted <= {one.name for one in sink.spans() if one.trace_id.hex() == trace})
    assert until(lambda: orphans(sink, trace, span) == [])
    assert len([one for one in sink.spans() if one.trace_id.hex() == trace]) >= 4


def orphans(sink: Sink, trace: str, outermost: str) -> list[str]:
    """Spans of a trace whose parent nobody told of."""
    of_trace = [one for one in sink.spans() if one.trace_id.hex() == trace]
    ids = {one.span_id.hex() for one in of_trace} | {outermost}
    return [one.name for one in of_trace if one.parent_span_id.hex() not in ids]


def test_a_staff_token_of_the_development_issuer_opens_the_door_its_role_allows(platform: Stack) -> None:
    asked = {"subject": "wang.fang", "roles": ["agent"]}
    token = httpx.post(f"{platform.urls['issuer']}/token", json=asked, trust_env=False).json()["access_token"]
    with httpx.Client(base_url=platform.urls["internal"], headers={"Authorization": f"Bearer {token}"}) as agent:
        assert agent.get("/v1/customers:search", params={"query": "nobody"}).status_code == 200
        assert agent.get("/v1/customers:export").status_code == 403
    with httpx.Client(base_url=platform.urls["partner"], headers={"Authorization": f"Bearer {token}"}) as agent:
        assert agent.get("/v1/customers:search", params={"query": "nobody"}).status_code == 401
