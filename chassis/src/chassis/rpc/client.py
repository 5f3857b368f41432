"""Channels that reach every replica, and calls that keep deadlines."""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import grpc
from google.protobuf.message import Message

from chassis import metrics, status, trace
from chassis.contract import Operation
from chassis.errors import DeadlineExceeded

TOKEN = "authorization"
MAX_BYTES = 4 * 1024 * 1024

_RETRY = """{"loadBalancingConfig": [{"round_robin": {}}],
 "methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "0.5s",
   "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]}}],
 "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1}}"""


def channel(address: str) -> grpc.Channel:
    """A channel to every replica behind `address`, in turn. Make it after any fork.

    UNAVAILABLE, and CANCELLED by a server that stops, is retried up to three times inside the call's deadline; safe,
    since an operation either changes nothing or carries a request id. The policy holds no timeout: Python's fires
    early (grpc issues 34547, 40633).
    """
    options = (
        ("grpc.service_config", _RETRY),
        ("grpc.enable_retries", 1),
        # A replica that is back is used within a second: the next one may be about to go.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_receive_message_length", MAX_BYTES),
        ("grpc.enable_http_proxy", 0),
    )
    return grpc.insecure_channel(address, options=options)


class Stub:
    """Calls the operations of the contracts over one channel; failures come back as the faults they were."""

    def __init__(self, to: grpc.Channel) -> None:
        self._channel = to
        self._methods: dict[str, Any] = {}

    def call(self, one: Operation, request: Message, *, token: str, seconds: float) -> Any:
        """The answer, within `seconds`; raises a `Fault`."""
        return self._invoke(one, request, token=token, seconds=seconds)

    def send(self, one: Operation, requests: Iterator[Message], *, token: str, seconds: float) -> Any:
        """The answer to a stream of requests."""
        return self._invoke(one, requests, token=token, seconds=seconds)

    def receive(self, one: Operation, request: Message, *, token: str, seconds: float) -> Iterator[Any]:
        """A stream of answers; a failure may come at any point of it."""
        try:
            yield from self._method(one)(request, timeout=seconds, metadata=_metadata(token))
        except grpc.RpcError as error:
            raise status.fault(error) from error

    def _invoke(self, one: Operation, request: Any, *, token: str, seconds: float) -> Any:
        if seconds <= 0:
            raise DeadlineExceeded("no time is left for this call")
        started, code = perf_counter(), "OK"
        try:
            with trace.span(one.name, kind=trace.CLIENT):
                return self._method(one)(request, timeout=seconds, metadata=_metadata(token))
        except grpc.RpcError as error:
            code = error.code().name
            raise status.fault(error) from error
        finally:
            metrics.CALL_SECONDS.labels(one.name, code).observe(perf_counter() - started)

    def _method(self, one: Operation) -> Any:
        found = self._methods.get(one.name)
        if found is None:
            kind = ("stream" if one.method.client_streaming else "unary") + "_"
            kind += "stream" if one.method.server_streaming else "unary"
            found = getattr(self._channel, kind)(
                f"/{one.name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=one.response.FromString,
            )
            self._methods[one.name] = found
        return found


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return ((TOKEN, token), ("traceparent", trace.traceparent()))
