"""Calls between processes: who may, until when, and how failures arrive."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest
from crm.analytics.v1 import analytics_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis import errors, identity, metrics, rpc, testing, trace
from chassis.errors import Denied, Exhausted, Fault, Invalid, Unauthenticated, Unavailable, Violation
from chassis.events import clock
from chassis.rpc import Call
from chassis.store import Store
from chassis.testing import Client

FRESHNESS, FACT = analytics_pb2.GetFreshnessRequest(), analytics_pb2.GetCustomerFactRequest(customer_id="c1")


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store({})


@contextmanager
def answering(store: Store, run: Callable[[Call, Any], Any]) -> Iterator[Client]:
    """The analytics contract with one function behind its first operation."""
    endpoints = {
        "GetFreshness": run,
        "GetSummary": lambda _call, _request: analytics_pb2.GetSummaryResponse(),
        "GetCustomerFact": lambda _call, _request: analytics_pb2.GetCustomerFactResponse(),
    }
    with testing.serving("analytics", store, endpoints) as client:
        yield client


def fine(_call: Call, _request: Any) -> Any:
    return analytics_pb2.GetFreshnessResponse(facts=7)


def raising(fault: Exception) -> Callable[[Call, Any], Any]:
    def run(_call: Call, _request: Any) -> Any:
        raise fault

    return run


def bare(client: Client, *, token: str | None, seconds: float | None = 2.0) -> Any:
    """A call without our client around it."""
    with grpc.insecure_channel(client.address) as channel:
        method = channel.unary_unary(
            "/crm.analytics.v1.FactService/GetFreshness",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=analytics_pb2.GetFreshnessResponse.FromString,
        )
        metadata = ((rpc.server.TOKEN, token),) if token is not None else ()
        return method(FRESHNESS, timeout=seconds, metadata=metadata)


def test_a_service_without_an_answer_for_an_operation_does_not_start(store: Store) -> None:
    server = rpc.Server("analytics", store, identity.Verifier({}), {"GetFreshness": fine, "Strange": fine})
    with pytest.raises(ValueError, match=r"GetCustomerFact.*GetSummary.*Strange"):
        server.start(0)


def test_nobody_gets_in_without_a_valid_token_a_right_and_a_deadline(store: Store) -> None:
    with answering(store, fine) as client:
        assert client.call(FRESHNESS).facts == 7
        with pytest.raises(Denied):
            client.call(FRESHNESS, caller=testing.somebody(scopes=frozenset({"customer.read"})))
        for token in (None, "", "x.y.z"):
            with pytest.raises(grpc.RpcError) as caught:
                bare(client, token=token)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        valid = client.signer.mint(testing.somebody(), clock())
        assert bare(client, token=valid).facts == 7
        with pytest.raises(grpc.RpcError, match="every call needs a deadline"):
            bare(client, token=valid, seconds=None)


def test_a_request_against_its_contract_names_the_field(store: Store) -> None:
    with answering(store, fine) as client, pytest.raises(Invalid) as caught:
        client.call(analytics_pb2.GetCustomerFactRequest())
    assert [one.field for one in caught.value.violations] == ["customer_id"]


@pytest.mark.parametrize(
    "fault",
    [
        Invalid([Violation("a.b[0]", "is wrong"), Violation("c", "is missing")]),
        errors.NotFound("there is none"),
        errors.Conflict("stale", reason="VERSION_MISMATCH"),
        Denied("not yours", reason="FIELD_HIDDEN"),
        Exhausted("too much", retry_after=2.5),
        Unauthenticated("who?"),
        errors.DeadlineExceeded("too late"),
    ],
)
def test_a_fault_arrives_as_it_was(store: Store, fault: Fault) -> None:
    with answering(store, raising(fault)) as client, pytest.raises(type(fault)) as caught:
        client.call(FRESHNESS)
    got = caught.value
    assert (got.message, got.reason, got.retry_after, got.violations) == (
        fault.message, fault.reason, fault.retry_after, fault.violations,
    )  # fmt: skip


def test_what_was_not_foreseen_says_nothing_of_its_inside(store: Store) -> None:
    with answering(store, raising(RuntimeError("password=secret"))) as client, pytest.raises(Fault) as caught:
        client.call(FRESHNESS)
    assert (type(caught.value), caught.value.reason) == (Fault, "INTERNAL")
    assert "secret" not in caught.value.message


def test_unavailable_is_tried_again_and_nothing_else_is(store: Store) -> None:
    calls: list[int] = []

    def flaky(fault: Fault, failures: int) -> Callable[[Call, Any], Any]:
        def run(_call: Call, _request: Any) -> Any:
            calls.append(1)
            if len(calls) <= failures:
                raise fault
            return analytics_pb2.GetFreshnessResponse(facts=1)

        return run

    with answering(store, flaky(Unavailable("away"), 2)) as client:
        assert client.call(FRESHNESS).facts == 1
    assert len(calls) == 3
    calls.clear()
    with answering(store, flaky(Exhausted("busy"), 2)) as client, pytest.raises(Exhausted):
        client.call(FRESHNESS)
    assert len(calls) == 1


def test_no_timeout_stands_in_the_service_config() -> None:
    assert "timeout" not in json.dumps(json.loads(rpc.client._RETRY)).lower().replace("retrythrottling", "")


def test_a_dead_service_does_not_tell_its_address(store: Store) -> None:
    with answering(store, fine) as client:
        pass
    channel = rpc.channel(client.address)
    stub = rpc.Stub(channel)
    token = client.signer.mint(testing.somebody(), clock())
    with pytest.raises(Unavailable) as caught:
        stub.call(testing.operation_of(FRESHNESS), FRESHNESS, token=token, seconds=1)
    assert "127.0.0.1" not in caught.value.message
    channel.close()


def test_overload_is_refused_while_health_answers(store: Store) -> None:
    release, problems = threading.Event(), list[str]()

    def slow(_call: Call, _request: Any) -> Any:
        release.wait(10)
        return analytics_pb2.GetFreshnessResponse()

    port, stop = testing.free_port(), threading.Event()
    health = threading.Thread(
        target=rpc.serve_health, args=(port, lambda: problems, stop), kwargs={"host": "127.0.0.1"}
    )
    health.start()
    with answering(store, slow) as client, ExitStack() as cleanup:
        cleanup.callback(stop.set)
        cleanup.callback(release.set)
        results: list[str] = []

        def call() -> None:
            try:
                client.call(FRESHNESS, seconds=9)
                results.append("OK")
            except Fault as fault:
                results.append(type(fault).__name__)

        threads = [threading.Thread(target=call) for _ in range(5 * rpc.THREADS)]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + 8
        while len(results) < 3 * rpc.THREADS and time.monotonic() < ends:
            time.sleep(0.05)
        assert set(results) == {"Exhausted"}
        assert len(results) == 3 * rpc.THREADS
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2).status
        assert status == health_pb2.HealthCheckResponse.SERVING
        release.set()
        for thread in threads:
            thread.join(10)
    assert results.count("OK") == 2 * rpc.THREADS
    health.join(10)


def test_calls_in_flight_end_well_and_new_ones_are_refused(store: Store) -> None:
    begun, release = threading.Event(), threading.Event()

    def slow(_call: Call, _request: Any) -> Any:
        begun.set()
        release.wait(10)
        return analytics_pb2.GetFreshnessResponse(facts=3)

    private, public = identity.generate("test")
    port = testing.free_port()
    endpoints = {"GetFreshness": slow, "GetSummary": fine, "GetCustomerFact": fine}
    server = rpc.Server("analytics", store, identity.load_verifier(public), endpoints).start(port, host="127.0.0.1")
    channel = rpc.channel(f"127.0.0.1:{port}")
    client = Client(rpc.Stub(channel), identity.load_signer(private), f"127.0.0.1:{port}")
    results: list[int] = []
    in_flight = threading.Thread(target=lambda: results.append(client.call(FRESHNESS, seconds=9).facts))
    in_flight.start()
    begun.wait(5)
    stopping = threading.Thread(target=rpc.stop, args=(server,))
    stopping.start()
    time.sleep(0.2)
    with pytest.raises(Unavailable):
        client.call(FACT, seconds=1)
    release.set()
    in_flight.join(10)
    stopping.join(10)
    channel.close()
    assert results == [3]


def test_replicas_share_the_calls(store: Store) -> None:
    seen: list[str] = []
    with ExitStack() as stack:
        clients = []
        for name in "ab":
            run = lambda _call, _request, name=name: seen.append(name) or analytics_pb2.GetFreshnessResponse()  # noqa: E731
            clients.append(stack.enter_context(answering(store, run)))
        addresses = ",".join(one.address for one in clients)
        channel = stack.enter_context(rpc.channel(f"ipv4:{addresses}"))
        for number in range(40):
            signer = clients[0].signer
            token = signer.mint(testing.somebody(), clock())
            try:
                rpc.Stub(channel).call(testing.operation_of(FRESHNESS), FRESHNESS, token=token, seconds=2)
            except Unauthenticated:
                seen.append("b")  # the second replica of this test trusts another key
            if number == 0:
                time.sleep(0.3)
    assert min(seen.count(name) for name in "ab") >= 10


def test_a_trace_goes_with_the_call(store: Store) -> None:
    trace.configure("test")
    seen: list[str] = []

    def run(_call: Call, _request: Any) -> Any:
        seen.append(trace.current_id())
        return analytics_pb2.GetFreshnessResponse()

    with answering(store, run) as client, trace.span("outside"):
        client.call(FRESHNESS)
        assert seen == [trace.current_id()]
    assert len(seen[0]) == 32


def test_what_a_call_took_is_measured(store: Store) -> None:
    labels = ("crm.analytics.v1.FactService/GetFreshness", "NOT_FOUND")
    before = metrics.RPC_SECONDS.labels(*labels)._sum.get()
    with answering(store, raising(errors.NotFound("none"))) as client, pytest.raises(errors.NotFound):
        client.call(FRESHNESS)
    assert metrics.RPC_SECONDS.labels(*labels)._sum.get() > before
