"""A server made of descriptors: it checks who calls, what and until when, and turns failures into statuses."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import BoundedSemaphore
from threading import Event as StopSignal
from time import perf_counter
from typing import Any

import grpc
import pymongo
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pymongo.errors import PyMongoError

from chassis import contract, idempotency, log, metrics, outbox, privacy, status, trace
from chassis.contract import Operation
from chassis.errors import Exhausted, Fault, Unauthenticated, invalid
from chassis.identity import Caller, Verifier
from chassis.reads import Reader
from chassis.store import Store, unavailable
from chassis.work import Work

THREADS = 16
GRACE_SECONDS = 20.0
NOT_SERVING_SECONDS = 2.0
NO_DEADLINE_SECONDS = 24 * 3600.0  # a call without one has until the end of time
TOKEN = "authorization"
MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Call:
    """One operation being carried out: what, for whom, on which store, and how much time is left (seconds)."""

    store: Store
    operation: Operation
    caller: Caller
    source: str
    remaining: Callable[[], float]
    gate: outbox.Gate


Endpoint = Callable[[Call, Any], Any]


def command(run: Callable[[Work, Any], Any]) -> Endpoint:
    """An operation that writes: one transaction, once for each request id, as long as its events can be kept."""

    def endpoint(call: Call, request: Message) -> Any:
        call.gate.admit()
        return idempotency.execute(
            call.store, call.operation, call.caller, request, lambda work: run(work, request),
            source=call.source, remaining=call.remaining,
        )  # fmt: skip

    return endpoint


def query(run: Callable[[Reader, Any], Any]) -> Endpoint:
    """An operation that reads, for as long as somebody waits for the answer."""

    def endpoint(call: Call, request: Message) -> Any:
        with pymongo.timeout(max(call.remaining(), 0.001)):
            return run(Reader(call.store), request)

    return endpoint


@dataclass(frozen=True)
class Server:
    """What answers calls: the operations of a service by method name, its store and whom it believes."""

    service: str
    store: Store
    verifier: Verifier
    endpoints: Mapping[str, Endpoint]

    @cached_property
    def files(self) -> BoundedSemaphore:
        """Places for files, which may take an hour: a quarter of all, so that they do not take everybody's."""
        return BoundedSemaphore(THREADS // 4)

    @cached_property
    def gate(self) -> outbox.Gate:
        """What keeps writes out while the outbox is full."""
        return outbox.Gate(self.store)

    def start(self, port: int, *, reflect: bool = False, host: str = "0.0.0.0") -> grpc.Server:
        """Starts serving; raises `ValueError` when an operation of the contract has no endpoint, or the reverse."""
        operations = {one.method.name: one for one in contract.operations(upstream=self.service)}
        if operations.keys() != self.endpoints.keys():
            raise ValueError(f"contract and endpoints differ in {sorted(operations.keys() ^ self.endpoints.keys())}")
        server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="rpc"),
            maximum_concurrent_rpcs=2 * THREADS,
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_BYTES),
                ("grpc.max_connection_age_ms", 120_000),
                ("grpc.max_connection_age_grace_ms", 30_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ),
        )
        server.add_generic_rpc_handlers(tuple(self._handlers(operations.values())))
        if reflect:
            names = {one.method.containing_service.full_name for one in operations.values()}
            reflection.enable_server_reflection((*sorted(names), reflection.SERVICE_NAME), server)
        if server.add_insecure_port(f"{host}:{port}") == 0:
            raise OSError(f"port {port} is taken")
        server.start()
        return server

    def _handlers(self, operations: Iterable[Operation]) -> Iterator[grpc.GenericRpcHandler]:
        methods: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for one in operations:
            methods.setdefault(one.method.containing_service.full_name, {})[one.method.name] = self._handler(one)
        for name, handlers in methods.items():
            yield grpc.method_handlers_generic_handler(name, handlers)

    def _handler(self, one: Operation) -> grpc.RpcMethodHandler:
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
        }
        make = kinds[one.method.client_streaming, one.method.server_streaming]
        behaviour = self._stream(one) if one.method.server_streaming else self._single(one)
        return make(
            behaviour,
            request_deserializer=one.request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    @contextmanager
    def _place(self, one: Operation) -> Iterator[None]:
        if not (one.method.client_streaming or one.method.server_streaming):
            yield
        elif self.files.acquire(blocking=False):
            try:
                yield
            finally:
                self.files.release()
        else:
            raise Exhausted("too many files are on their way", reason="BUSY", retry_after=5)

    def _single(self, one: Operation) -> Callable[[Any, grpc.ServicerContext], Message]:
        def answer(request: Any, context: grpc.ServicerContext) -> Message:
            with _observed(self.service, one, context), self._place(one):
                call = self._admit(one, request, context)
                response: Message = self.endpoints[one.method.name](call, request)
                privacy.mask(response, call.caller)
                return response

        return answer

    def _stream(self, one: Operation) -> Callable[[Any, grpc.ServicerContext], Iterator[Message]]:
        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
            with _observed(self.service, one, context), self._place(one):
                yield from self.endpoints[one.method.name](self._admit(one, request, context), request)

        return answer

    def _admit(self, one: Operation, request: Any, context: grpc.ServicerContext) -> Call:
        """Who calls, may they, is there time, is the request right: in this order, and nothing before all hold."""
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        token = metadata.get(TOKEN, "")
        if not token:
            raise Unauthenticated("this call carries no caller token", reason="NO_TOKEN")
        caller = self.verifier.verify(token)
        caller.require(one.scope)
        if (context.time_remaining() or 0) > NO_DEADLINE_SECONDS:
            raise invalid("", "every call needs a deadline")
        if isinstance(request, Message):
            contract.validate(request)
            privacy.may_change(request, caller)
        return Call(self.store, one, caller, self.service, lambda: _remaining(context), self.gate)


def _remaining(context: grpc.ServicerContext) -> float:
    left = context.time_remaining()
    return float(left) if left is not None and context.is_active() else 0.0


class _observed:
    """Around one call: span, metrics, and every failure turned into a status with details."""

    def __init__(self, service: str, one: Operation, context: grpc.ServicerContext) -> None:
        self._method, self._context = one.name, context
        parent = dict(context.invocation_metadata()).get("traceparent", "")
        self._span = trace.span(one.name, parent=parent, kind=trace.SERVER)
        self._started = perf_counter()

    def __enter__(self) -> None:
        metrics.RPC_IN_FLIGHT.inc()
        self._span.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, at: Any) -> None:
        if isinstance(error, PyMongoError):
            log.warning("an operation found no store", method=self._method, error=error)
            error = unavailable(error)
        code = "OK" if error is None else status.code_of(error).name
        metrics.RPC_IN_FLIGHT.dec()
        metrics.RPC_SECONDS.labels(self._method, code).observe(perf_counter() - self._started)
        if error is not None and not isinstance(error, Fault):
            log.error("operation failed", method=self._method, error=error)
        try:
            self._span.__exit__(kind, error, at)
        finally:
            if isinstance(error, Exception):
                status.abort(self._context, error)


def stop(server: grpc.Server) -> None:
    """Lets calls in flight finish, refuses new ones, then closes."""
    server.stop(GRACE_SECONDS).wait()


def serve_health(port: int, problems: Callable[[], list[str]], stopping: StopSignal, *, host: str = "0.0.0.0") -> None:
    """Answers grpc.health.v1 on a port and pool of its own, so that a busy service never looks dead."""
    server = grpc.server(ThreadPoolExecutor(2, thread_name_prefix="health"), options=(("grpc.so_reuseport", 0),))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    while not stopping.is_set():
        ready = not problems()
        servicer.set(
            "", health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        stopping.wait(1.0)
    servicer.enter_graceful_shutdown()
    server.stop(GRACE_SECONDS)
