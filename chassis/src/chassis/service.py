"""One way to run a service: `migrate` prepares its database, `serve` answers calls, `work` does what is due."""

import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from logging import getLevelNamesMapping
from queue import Queue
from threading import Event as StopSignal
from types import MappingProxyType
from typing import Any

from pymongo.uri_parser import parse_uri

from chassis import (
    broker,
    config,
    http,
    idempotency,
    identity,
    inbox,
    leases,
    log,
    migrations,
    outbox,
    rpc,
    store,
    timers,
    trace,
    work,
)
from chassis.events import Envelope
from chassis.process import Loop, Process
from chassis.rpc import Endpoint
from chassis.store import Schema, Session, Store
from chassis.timers import Handler as TimerHandler
from chassis.work import Work

Tasks = Mapping[str, Callable[[Store], object]]
Held = Callable[[], frozenset[int]]
ROLES = ("migrate", "serve", "work", "all")
LEAST_SECRET_BYTES = 16


@dataclass(frozen=True)
class Settings:
    """What every service is told. Ports are TCP ports on all interfaces; secrets come from mounted files."""

    mongodb_uri: str
    amqp_url: str
    identity_keys: str
    token_secret: bytes
    rpc_port: int = 50051
    health_port: int = 50052
    http_port: int = 9090
    log_level: str = "INFO"
    otlp_endpoint: str = ""
    trace_ratio: float = 1.0
    reflection: bool = False


@dataclass(frozen=True)
class Service:
    """What a service is made of. `listens` names the packages whose events it takes in.

    `loops` are its own long jobs in the work role; each is told which partitions this worker holds, now.
    """

    name: str
    schema: Schema
    endpoints: Mapping[str, Endpoint]
    handlers: inbox.Handlers = field(default_factory=dict)
    listens: tuple[str, ...] = ()
    every: Callable[[Work, Envelope], None] | None = None
    timers: Mapping[str, TimerHandler] = field(default_factory=dict)
    loops: Mapping[str, Callable[[Store, Held, StopSignal], None]] = field(default_factory=dict)
    backfills: tuple[migrations.Backfill, ...] = ()

    @property
    def database(self) -> str:
        """Underscored, as the proto package: `service_desk`."""
        return self.name.replace("-", "_")

    @property
    def whole_schema(self) -> Schema:
        """Its own collections and those of the chassis."""
        parts = (
            idempotency.SCHEMA,
            work.SCHEMA,
            outbox.SCHEMA,
            inbox.SCHEMA,
            timers.SCHEMA,
            leases.SCHEMA,
            migrations.SCHEMA,
            self.schema,
        )
        return {name: indexes for part in parts for name, indexes in part.items()}


def main(service: Service, settings: Settings, role: str, tasks: Tasks) -> int:
    """Runs one role of a service, or one of its tasks; returns the exit code."""
    log.configure(service.name, settings.log_level)
    trace.configure(service.name, endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio)
    opened = store.connect(
        settings.mongodb_uri, service.database, token_secret=settings.token_secret, schema=service.whole_schema
    )
    if role in ("migrate", "all"):
        log.info("migrated", created=", ".join(migrations.migrate(opened, service.whole_schema, service.backfills)))
    if role == "migrate":
        return 0
    store.verify(opened, service.whole_schema)
    if role in tasks:
        log.info(f"{role} done", result=tasks[role](opened))
        return 0
    return _run(service, settings, opened, role)


def role_from(arguments: list[str], choices: Iterable[str] = ROLES) -> str:
    """The role on the command line; prints the choices and exits 2 when it is none."""
    if len(arguments) != 2 or arguments[1] not in choices:
        print(f"usage: python -m <service> {{{'|'.join(choices)}}}", file=sys.stderr)
        raise SystemExit(2)
    return arguments[1]


def _run(service: Service, settings: Settings, opened: Store, role: str) -> int:
    process = Process(loops={}, checks={"store": lambda: store.reachable(opened)})
    loops: dict[str, Loop] = {}
    if role in ("serve", "all"):
        loops |= _serving(service, settings, opened, process)
    if role in ("work", "all"):
        loops |= _working(service, settings, opened)
    process.loops = loops
    process.closers = [http.serve(settings.http_port, process.problems), opened.close]
    return process.run()


def _serving(service: Service, settings: Settings, opened: Store, process: Process) -> dict[str, Loop]:
    verifier = identity.load_verifier(settings.identity_keys)
    server = rpc.Server(service.name, opened, verifier, service.endpoints)

    def answer(stop: StopSignal) -> None:
        running = server.start(settings.rpc_port, reflect=settings.reflection)
        stop.wait()
        stop_after = StopSignal()
        stop_after.wait(rpc.NOT_SERVING_SECONDS)  # balancers learn that we are leaving before we refuse
        rpc.stop(running)

    return {"rpc": answer, "health": partial(rpc.serve_health, settings.health_port, process.problems)}


def _working(service: Service, settings: Settings, opened: Store) -> dict[str, Loop]:
    held = leases.Leases(opened, f"{socket.gethostname()}-{os.getpid()}")
    begin = partial(_begin, service, opened)
    publisher = broker.ConfirmedPublisher(settings.amqp_url, service.name)
    loops: dict[str, Loop] = {
        "leases": held.keep,
        "relay": lambda stop: outbox.relay(opened, held, publisher, stop),
        "timers": lambda stop: timers.run(opened, service.timers, begin, stop),
    }
    if service.listens:
        loops |= _consuming(service, settings, opened, held, begin)
    return loops | {name: partial(loop, opened, held.held) for name, loop in service.loops.items()}


def _consuming(
    service: Service, settings: Settings, opened: Store, held: leases.Leases, begin: Callable[[Session, str], Work]
) -> dict[str, Loop]:
    inbound: Queue[broker.Delivery] = Queue()
    consumer = broker.Consumer(settings.amqp_url, service.name, service.listens, inbound)
    box = inbox.Inbox(opened, service.handlers, begin, service.every)
    done = StopSignal()

    def handle(stop: StopSignal) -> None:
        inbox.run(box, inbound, consumer.settle, stop)
        done.set()

    return {
        "consumer": lambda stop: consumer.run(held.held, stop, done),
        "handler": handle,
        "retries": lambda stop: inbox.retry_parked(box, stop),
    }


def _begin(service: Service, opened: Store, session: Session, operation: str) -> Work:
    return idempotency.begin(opened, session, identity.system(service.name), source=service.name, operation=operation)


def _checks(common: Settings) -> Mapping[str, Callable[[], object]]:
    return {
        "MONGODB_URI": lambda: parse_uri(common.mongodb_uri),
        "AMQP_URL": lambda: broker.parameters(common.amqp_url, ""),
        "IDENTITY_KEYS": lambda: identity.load_verifier(common.identity_keys),
        "TOKEN_SECRET": lambda: _require_secret(common.token_secret),
        "LOG_LEVEL": lambda: getLevelNamesMapping()[common.log_level],
    }


def _require_secret(secret: bytes) -> None:
    if len(secret) < LEAST_SECRET_BYTES:
        raise ValueError(f"it must have at least {LEAST_SECRET_BYTES} bytes")


def run(make: Callable[..., Service], *kinds: type[Any], tasks: Tasks = MappingProxyType({})) -> None:
    """The whole of a service's `__main__`: settings, wiring, role, exit code. `make` gets the settings it asks for.

    `tasks` are roles of the service's own that do one thing and end.
    """
    role = role_from(sys.argv, (*ROLES, *tasks))
    common, *own = config.load_or_exit(Settings, *kinds)
    config.check_or_exit(_checks(common))
    raise SystemExit(main(make(*own), common, role, tasks))
