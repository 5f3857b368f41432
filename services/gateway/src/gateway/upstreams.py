"""Calls to the services: each with a bound of its own, so that a slow one does not take the threads of the others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any

from google.protobuf.message import Message

from chassis import metrics, rpc
from chassis.contract import Operation
from chassis.errors import Exhausted, Unavailable


@dataclass(frozen=True)
class Upstream:
    """One service: how to call it and how many calls may be under way at once."""

    name: str
    stub: rpc.Stub
    slots: BoundedSemaphore

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Holds a place among the calls under way; raises `Unavailable` at once when all are taken."""
        if not self.slots.acquire(blocking=False):
            metrics.HTTP_REFUSED.labels("upstream_busy").inc()
            raise Unavailable(f"the {self.name} service is busy", reason="BUSY", retry_after=1)
        try:
            yield
        except Exhausted as error:
            # The service sheds load; the client's own quota is not what is used up.
            raise Unavailable(f"the {self.name} service is busy", reason="BUSY", retry_after=1) from error
        finally:
            self.slots.release()


@dataclass(frozen=True)
class Upstreams:
    """The services by name."""

    by_name: Mapping[str, Upstream]

    def call(self, one: Operation, request: Message, *, token: str, seconds: float) -> Any:
        """The answer to one request; raises a `Fault`."""
        upstream = self.by_name[one.upstream]
        with upstream.slot():
            return upstream.stub.call(one, request, token=token, seconds=seconds)

    def send(self, one: Operation, requests: Iterator[Message], *, token: str, seconds: float) -> Any:
        """The answer to a stream of requests."""
        upstream = self.by_name[one.upstream]
        with upstream.slot():
            return upstream.stub.send(one, requests, token=token, seconds=seconds)

    def receive(self, one: Operation, request: Message, *, token: str, seconds: float) -> Iterator[Any]:
        """A stream of answers; the place is held until the stream ends."""
        upstream = self.by_name[one.upstream]
        with upstream.slot():
            yield from upstream.stub.receive(one, request, token=token, seconds=seconds)


def connect(addresses: Mapping[str, str], *, concurrency: int) -> Upstreams:
    """Channels to every service; call it after any fork."""
    return Upstreams(
        {
            name: Upstream(name, rpc.Stub(rpc.channel(address)), BoundedSemaphore(concurrency))
            for name, address in addresses.items()
        }
    )
