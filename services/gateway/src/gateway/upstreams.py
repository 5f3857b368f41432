"""Calls to the services: each with a bound of its own, so that a slow one does not take the threads of the others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from time import monotonic
from typing import Any

from google.protobuf.message import Message

from chassis import log, metrics, rpc
from chassis.contract import Operation
from chassis.errors import DeadlineExceeded, Exhausted, Fault, Unauthenticated, Unavailable
from gateway.breaker import Breaker

FAIR_SECONDS = 2.0


@dataclass(frozen=True)
class Upstream:
    """One service: how to call it and how many calls may be under way at once.

    Files, which may take an hour, have places of their own, so that they do not take those of everybody else.
    """

    name: str
    stub: rpc.Stub
    slots: BoundedSemaphore
    streams: BoundedSemaphore
    breaker: Breaker = field(default_factory=Breaker)

    @contextmanager
    def slot(self, slots: BoundedSemaphore) -> Iterator[None]:
        """Holds a place among the calls under way; raises `Unavailable` at once when all are taken."""
        if not slots.acquire(blocking=False):
            metrics.HTTP_REFUSED.labels("upstream_busy").inc()
            raise self._busy()
        try:
            if not self.breaker.admits():
                metrics.HTTP_REFUSED.labels("upstream_down").inc()
                raise Unavailable(f"the {self.name} service does not answer", reason="DOWN", retry_after=1)
            with self._judged():
                yield
        except Exhausted as error:
            # The service sheds load; the client's own quota is not what is used up.
            raise self._busy() from error
        except Unauthenticated as error:
            # Of this gateway's own token: the client's credentials are good and must not look as if they were not.
            log.error("a service refuses the caller token of this gateway", upstream=self.name, reason=error.reason)
            raise Fault(f"the {self.name} service does not trust this gateway", reason="NOT_TRUSTED") from error
        finally:
            slots.release()

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Tells the breaker how a call went: it failed when the service was not there, or had a fair time and
        did not answer. A call that had less says nothing."""
        started = monotonic()
        try:
            yield
        except Unavailable as error:
            self._note(failed=error.reason == Unavailable.reason)
            raise
        except DeadlineExceeded:
            if monotonic() - started > FAIR_SECONDS:
                self._note(failed=True)
            raise
        except Fault:
            self._note(failed=False)
            raise
        self._note(failed=False)

    def _note(self, *, failed: bool) -> None:
        if self.breaker.note(failed=failed):
            state = "open" if self.breaker.open else "closed"
            log.warning("calls to a service", upstream=self.name, breaker=state)

    def _busy(self) -> Unavailable:
        return Unavailable(f"the {self.name} service is busy", reason="BUSY", retry_after=1)


@dataclass(frozen=True)
class Upstreams:
    """The services by name."""

    by_name: Mapping[str, Upstream]

    def call(self, one: Operation, request: Message, *, token: str, seconds: float) -> Any:
        """The answer to one request; raises a `Fault`."""
        upstream = self.by_name[one.upstream]
        with upstream.slot(upstream.slots):
            return upstream.stub.call(one, request, token=token, seconds=seconds)

    def send(self, one: Operation, requests: Iterator[Message], *, token: str, seconds: float) -> Any:
        """The answer to a stream of requests."""
        upstream = self.by_name[one.upstream]
        with upstream.slot(upstream.streams):
            return upstream.stub.send(one, requests, token=token, seconds=seconds)

    def receive(self, one: Operation, request: Message, *, token: str, seconds: float) -> Iterator[Any]:
        """A stream of answers; the place is held until the stream ends."""
        upstream = self.by_name[one.upstream]
        with upstream.slot(upstream.streams):
            yield from upstream.stub.receive(one, request, token=token, seconds=seconds)


def most_threads(concurrency: int) -> int:
    """How many threads one service may hold: its calls and its files."""
    return concurrency + _file_places(concurrency)


def _file_places(concurrency: int) -> int:
    return max(1, concurrency // 4)


def connect(addresses: Mapping[str, str], *, concurrency: int) -> Upstreams:
    """Channels to every service; call it after any fork. A quarter of the places is there for files besides."""
    return Upstreams({name: _upstream(name, address, concurrency) for name, address in addresses.items()})


def _upstream(name: str, address: str, concurrency: int) -> Upstream:
    stub = rpc.Stub(rpc.channel(address))
    return Upstream(name, stub, BoundedSemaphore(concurrency), BoundedSemaphore(_file_places(concurrency)))
