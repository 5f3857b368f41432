"""Where the time of one create and one point read goes, step by step, in microseconds.

Each step is the platform's own function, called alone in one process that has nothing else to do; the store and the
called service are other processes. What is left of the whole, as a client sees it, is HTTP, Flask and bookkeeping.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from crm.customer.v1 import customer_pb2
from flask import Flask, request
from google.protobuf.message import Message
from pymongo import monitoring

from bench import calls, databases, load, made
from bench.apart import helper
from bench.figures import Plan
from bench.ground import Ground, ground
from chassis import contract, identity, rpc, trace
from chassis.contract import Operation
from chassis.events import clock
from chassis.rpc import Call
from chassis.store import Store
from chassis.testing import somebody
from customer import __main__ as customer
from customer.rpc import endpoints
from gateway import answer, parse
from gateway.routes import Route, routes

TIMES = 200
Steps = dict[str, float]  # what is done -> microseconds


def measure(plan: Plan) -> dict[str, Steps]:
    """The steps of a create and of a point read, the whole of each as one client sees it, and what is left."""
    times = min(TIMES, max(20, int(TIMES * plan.seconds / 3)))
    with ground(plan.directory / "breakdown") as place, helper() as alone, helper() as client:
        place.migrate("gateway", "customer")
        keys = str(place.directory / "identity-keys.json")
        address, service = calls.stand("chassis-rpc", "chassis-rpc", place.directory, IDENTITY_KEYS_FILE=keys)
        place.processes.append(service)
        place.service("customer", "serve")
        url, key = place.gateway(), place.key()
        steps = alone.run(all_steps, place.store.uri, address, str(place.directory), times)
        wholes = _wholes(place, client.run, url, key, plan.seconds)
    return {name: _completed(steps[name], wholes[name]) for name in steps}


def _wholes(place: Ground, run: Callable[..., Any], url: str, key: str, seconds: float) -> dict[str, float]:
    """Medians of one client, in microseconds."""
    create = run(load.creates, url, key, load.Crowd(1, seconds)).p50
    store = databases.opened(place.store.uri, "customer")
    found: Any = store["customers"].find_one({})
    store.close()
    read = run(load.gets, url, key, [f"/v1/customers/{found['_id']}"], load.Crowd(1, seconds)).p50
    return {"create": create * 1000, "point read": read * 1000}


def _completed(steps: Steps, whole: float) -> Steps:
    done = sum(value for name, value in steps.items() if not name.startswith(" "))
    return steps | {"HTTP, Flask, quota, log, metrics (the rest)": whole - done, "whole, as one client sees it": whole}


# --- the steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What a step may need: a store, a call to a service that answers at once, somebody with a token."""

    store: Store
    stub: rpc.Stub
    signer: identity.Signer
    verifier: identity.Verifier
    watch: "Watch"
    times: int


class Watch(monitoring.CommandListener):
    """Adds up how long the store's commands took. The driver demands a subclass."""

    def __init__(self) -> None:
        self.micros = 0.0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Nothing yet."""

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """One more."""
        self.micros += event.duration_micros

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """It took time as well."""
        self.micros += event.duration_micros


def all_steps(uri: str, address: str, directory: str, times: int) -> dict[str, Steps]:
    """The steps of both; the whole work of a process."""
    trace.configure("bench")
    monitoring.register(watch := Watch())
    store = databases.opened(uri, "customer", schema=customer.service(customer.CustomerSettings()).whole_schema)
    signer = identity.load_signer((Path(directory) / "identity-key.json").read_text("utf-8"))
    verifier = identity.load_verifier((Path(directory) / "identity-keys.json").read_text("utf-8"))
    with rpc.channel(address) as channel:
        bench = Bench(store, rpc.Stub(channel), signer, verifier, watch, times)
        return {"create": _create(bench), "point read": _read(bench)}


def _create(bench: Bench) -> Steps:
    body = json.dumps(next(made.bodies(1))).encode()
    route, given = _route("RegisterCustomer"), {"data": body, "content_type": "application/json"}
    with _sent("/v1/customers", "POST", headers={parse.KEY: str(uuid4())}, **given):
        message: Any = parse.message_of(route, request, {})
        parsed = _timed(bench, lambda: parse.message_of(route, request, {}))

        def write() -> Any:
            message.request_id = str(uuid4())
            return _endpoint(bench, route.operation, message)

        return _steps(bench, route, message, parsed, ("transact", write))


def _read(bench: Bench) -> Steps:
    found: Any = bench.store["customers"].find_one({})
    route, variables = _route("GetCustomer"), {"customer_id": found["_id"]}
    with _sent(f"/v1/customers/{found['_id']}", "GET"):
        message = parse.message_of(route, request, variables)
        parsed = _timed(bench, lambda: parse.message_of(route, request, variables))
        return _steps(bench, route, message, parsed, ("find", lambda: _endpoint(bench, route.operation, message)))


def _steps(bench: Bench, route: Route, message: Message, parsed: float, work: tuple[str, Callable[[], Any]]) -> Steps:
    """Those both have. Names that begin with a space are parts of the step before, or are paid rarely."""
    name, run = work
    done, reads = run(), answer.reading_routes(routes())
    token = bench.signer.mint(somebody(), clock())
    validated = _timed(bench, lambda: contract.validate(message))
    asked = customer_pb2.GetCustomerRequest(customer_id=calls.ASKED)
    called = _operation("GetCustomer")
    bench.verifier.verify(token)
    whole, waited = _watched(bench, run)
    return {
        "parse": parsed - validated,
        "validate": validated,
        " sign a token (once in 20 s and caller)": _timed(bench, lambda: bench.signer.mint(somebody(), clock())),
        "call through gRPC": _timed(bench, lambda: bench.stub.call(called, asked, token=token, seconds=5)),
        " verify the token (known)": _timed(bench, lambda: bench.verifier.verify(token)),
        " verify a new token (once in 20 s and caller)": _verified(bench),
        name: whole,
        " waiting for the store": waited,
        " our rules, codec and driver": whole - waited,
        "encode": _timed(bench, lambda: answer.response(route, request, done, {}, answer.location(route, reads, done))),
    }


def _endpoint(bench: Bench, operation: Operation, message: Message) -> Any:
    ends = time.monotonic() + 5
    gate: Any = _OPEN
    call = Call(bench.store, operation, somebody(), "customer", lambda: ends - time.monotonic(), gate)
    return endpoints(region=made.REGION)[operation.method.name](call, message)


class _Open:
    """A gate that lets everybody in: the real one looks once in five seconds."""

    def admit(self) -> None:
        """Always."""


_OPEN = _Open()


def _operation(method: str) -> Operation:
    return next(one for one in contract.operations() if one.method.name == method)


def _route(method: str) -> Route:
    return next(one for one in routes() if one.operation.method.name == method)


@contextmanager
def _sent(path: str, method: str, **given: Any) -> Iterator[None]:
    with Flask("bench").test_request_context(path, method=method, **given):
        yield


def _timed(bench: Bench, run: Callable[[], object]) -> float:
    """The median, in microseconds."""
    return _watched(bench, run)[0]


def _watched(bench: Bench, run: Callable[[], object]) -> tuple[float, float]:
    """The medians of the whole and of the time in the store, in microseconds."""
    wholes, waits = [], []
    for _ in range(bench.times):
        bench.watch.micros, started = 0.0, time.perf_counter()
        run()
        wholes.append((time.perf_counter() - started) * 1e6)
        waits.append(bench.watch.micros)
    return statistics.median(wholes), statistics.median(waits)


def _verified(bench: Bench) -> float:
    tokens = [bench.signer.mint(somebody(subject=f"staff:{uuid4()}"), clock()) for _ in range(bench.times)]
    turns = iter(tokens)
    return _timed(bench, lambda: bench.verifier.verify(next(turns)))
