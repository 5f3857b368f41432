"""The whole platform on one machine: `python -m stack` runs it until Ctrl-C; the demo and the tests start it as well.

Keys and secrets are for development: made at the first start, kept in the stack's directory, and used again.
"""

import contextlib
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import onebox
from chassis import identity, store
from chassis.errors import Conflict, Unauthenticated
from chassis.events import clock
from gateway import keys
from gateway.store import SCHEMA as GATEWAY_SCHEMA

HERE = onebox.REPOSITORY
NONE: Mapping[str, str] = MappingProxyType({})
POLICIES = ("internal", "public", "partner")
SERVICES = ("customer", "analytics")
# The channels of development: client -> kind, roles.
CLIENTS: Mapping[str, tuple[str, list[str]]] = {
    "store-till": ("channel", ["store"]),
    "web-shop": ("channel", ["web"]),
    "mobile-app": ("channel", ["app"]),
    "ivr": ("channel", ["ivr"]),
    "data-loader": ("channel", ["loader"]),
    "back-office": ("channel", ["administrator"]),
    "acme-partner": ("partner", ["partner"]),
}
PREFERRED_PORTS = {"internal": 8080, "public": 8081, "partner": 8082, "issuer": 8090}


@dataclass(frozen=True)
class Part:
    """One process of the stack and how to start it (again)."""

    name: str
    module: str
    role: str
    settings: Mapping[str, str]
    ready_url: str


@dataclass
class Stack:
    """A running platform: where its gateways answer, which key opens what, and its processes by name."""

    directory: Path
    store: onebox.Server
    broker: onebox.Server
    urls: dict[str, str]
    keys: dict[str, str]
    parts: dict[str, Part]
    processes: dict[str, onebox.Process] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        """Starts these parts side by side and waits until all are ready."""
        for name in names:
            self.processes[name] = self._launched(self.parts[name])
        onebox.await_ready([self.processes[name] for name in names])

    def _launched(self, part: Part) -> onebox.Process:
        return onebox.start_service(
            part.name,
            module=part.module,
            role=part.role,
            settings=part.settings,
            directory=self.directory,
            ready_url=part.ready_url,
            wait=False,
        )

    def kill(self, name: str) -> None:
        """Ends a part as a crash would."""
        self.processes[name].kill()

    def restart_dead(self) -> list[str]:
        """Starts again what has ended by itself; returns the names."""
        dead = [name for name, process in self.processes.items() if not process.alive]
        for name in dead:
            self.processes[name].kill()
        self.start(*dead)
        return dead

    def stop(self) -> None:
        """Stops every part, the last started first."""
        onebox.stop_all(list(self.processes.values()), timeout=30)


@contextlib.contextmanager
def running(directory: Path, *, split: bool = False, settings: Mapping[str, str] = NONE) -> Iterator[Stack]:
    """The whole platform with its data in `directory`; `split` runs a service's `serve` and `work` apart.

    `settings` are given to every process on top of what the stack sets.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with onebox.infrastructure(directory) as (database, broker):
        stack = _prepared(directory, database, broker, split=split, settings=settings)
        try:
            stack.start(*stack.parts)
            yield stack
        finally:
            stack.stop()


def _prepared(
    directory: Path, database: onebox.Server, broker: onebox.Server, *, split: bool, settings: Mapping[str, str]
) -> Stack:
    secret = _kept(directory / "token-secret", lambda: secrets.token_hex(32))
    if not (directory / "identity-key.json").exists():
        identity.write_keys(directory)
    common = {"MONGODB_URI": database.uri, **settings}
    service = common | {
        "AMQP_URL": broker.uri,
        "TOKEN_SECRET": secret,
        "IDENTITY_KEYS_FILE": str(directory / "identity-keys.json"),
        "REFLECTION": "true",
    }
    parts, addresses = _service_parts(service, split=split)
    doors, urls = _gateway_parts(common | addresses | {"IDENTITY_KEY_FILE": str(directory / "identity-key.json")})
    stack = Stack(directory, database, broker, urls, {}, parts | doors)
    migrate(dict.fromkeys(SERVICES, service) | {"gateway": common}, directory)
    stack.keys.update(client_keys(directory, database.uri, CLIENTS))
    # What `./crm` reads; shell, so that people can source it as well.
    addresses_file = f"export MONGODB_URI='{database.uri}' AMQP_URL='{broker.uri}'\n"
    (directory / "addresses").write_text(addresses_file)
    return stack


def _kept(path: Path, make: Callable[[], str]) -> str:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(make())
    return path.read_text()


def _service_parts(settings: Mapping[str, str], *, split: bool) -> tuple[dict[str, Part], dict[str, str]]:
    parts: dict[str, Part] = {}
    addresses = {}
    for service in SERVICES:
        port = onebox.free_port()
        addresses[f"{service.upper()}_ADDRESS"] = f"{onebox.HOST}:{port}"
        for role in ("serve", "work") if split else ("all",):
            http, health = onebox.free_port(), onebox.free_port()
            ports = {"RPC_PORT": str(port), "HEALTH_PORT": str(health), "HTTP_PORT": str(http)}
            name = f"{service}-{role}" if split else service
            url = f"http://{onebox.HOST}:{http}/readyz"
            parts[name] = Part(name, service, role, {**settings, **ports}, url)
    return parts, addresses


def _gateway_parts(settings: Mapping[str, str]) -> tuple[dict[str, Part], dict[str, str]]:
    urls = {name: f"http://{onebox.HOST}:{_port(name)}" for name in PREFERRED_PORTS}
    issuer = {"PORT": urls["issuer"].rpartition(":")[2], "URL": urls["issuer"]}
    parts = {"issuer": Part("issuer", "gateway.issuer", "serve", issuer, f"{urls['issuer']}/readyz")}
    staff = {"OIDC_ISSUER": urls["issuer"], "OIDC_JWKS_URI": f"{urls['issuer']}/jwks.json"}
    for policy in POLICIES:
        http = onebox.free_port()
        own = {"POLICY": policy, "PORT": urls[policy].rpartition(":")[2], "HTTP_PORT": str(http)}
        name, url = f"gateway-{policy}", f"http://{onebox.HOST}:{http}/readyz"
        parts[name] = Part(name, "gateway", "serve", {**settings, **staff, **own}, url)
    return parts, urls


def _port(name: str) -> int:
    """The well-known port where it is free, so that addresses stay the same from run to run."""
    preferred = PREFERRED_PORTS[name]
    return preferred if onebox.is_free(preferred) else onebox.free_port()


def migrate(wanted: Mapping[str, Mapping[str, str]], directory: Path, *, modules: Mapping[str, str] = NONE) -> None:
    """Prepares the databases of these services, side by side, each with its settings; raises RuntimeError where one
    cannot be. A service's module has its name, or the one in `modules`."""
    started = [
        onebox.start_service(
            f"{name}-migrate",
            module=modules.get(name, name),
            role="migrate",
            settings=settings,
            directory=directory,
            ready_url=None,
        )
        for name, settings in wanted.items()
    ]
    for process in started:
        code = process.popen.wait(60)
        process.stop()
        if code != 0:
            raise RuntimeError(f"{process.name} failed; its log ends:\n{process.tail()}")


def client_keys(directory: Path, uri: str, clients: Mapping[str, tuple[str, list[str]]]) -> dict[str, str]:
    """A key for each of these clients (kind and roles); those of an earlier run are used again while they are valid."""
    path = directory / "keys.json"
    known: dict[str, str] = json.loads(_kept(path, lambda: "{}"))
    opened = store.connect(uri, "gateway", schema=GATEWAY_SCHEMA)
    for client, (kind, roles) in clients.items():
        known[client] = _valid_key(opened, client, known.get(client, ""), kind=kind, roles=roles)
    opened.close()
    path.write_text(json.dumps(known, indent=2))
    return known


def _valid_key(opened: store.Store, client: str, known: str, *, kind: str, roles: list[str]) -> str:
    try:
        keys.authenticate(opened, known, clock())
        return known
    except Unauthenticated:
        try:
            return keys.create(opened, client, kind=kind, roles=roles)
        except Conflict:
            return keys.rotate(opened, client)


# --- `make up` -------------------------------------------------------------------------------------------------------

_WELCOME = """
Guanxi is running. Ctrl-C stops it; the data stays in {directory}.

  internal   {urls[internal]}     for people at desks and tills        {urls[internal]}/docs
  public     {urls[public]}     for web, app and IVR front ends       {urls[public]}/docs
  partner    {urls[partner]}     for partners                          {urls[partner]}/docs
  logs       {directory}/*.log
  keys       {directory}/keys.json

First steps, to copy:

  # register a customer
  curl -s {urls[internal]}/v1/customers -H 'X-Api-Key: {key}' \\
       -H "Idempotency-Key: $(cat /proc/sys/kernel/random/uuid)" -H 'Content-Type: application/json' \\
       -d '{{"kind": "PERSON", "names": [{{"full": "张伟"}}], "phones": [{{"number": "138 0013 8000"}}]}}'

  # find the customer by name as it sounds, or by phone as people write it
  curl -s -G {urls[internal]}/v1/customers:search -H 'X-Api-Key: {key}' --data-urlencode 'query=zhang wei'
  curl -s -G {urls[internal]}/v1/customers:search -H 'X-Api-Key: {key}' --data-urlencode 'query=+86 138-0013-8000'

  # record a contact (put the customer_id in)
  curl -s {urls[internal]}/v1/customers/CUSTOMER_ID/interactions -H 'X-Api-Key: {key}' \\
       -H "Idempotency-Key: $(cat /proc/sys/kernel/random/uuid)" -H 'Content-Type: application/json' \\
       -d '{{"topic": "billing", "contact": {{"channel": "STORE", "direction": "INBOUND", "summary": "a bill"}}}}'

  # be a call-centre agent instead, who does not see identity documents in clear
  TOKEN=$(curl -s {urls[issuer]}/token -H 'Content-Type: application/json' \\
       -d '{{"subject": "wang.fang", "roles": ["agent"]}}' | sed 's/.*"access_token": "\\([^"]*\\)".*/\\1/')
  curl -s -G {urls[internal]}/v1/customers:search -H "Authorization: Bearer $TOKEN" --data-urlencode 'query=zhang wei'

  # what analytics counted from the events
  curl -s {urls[internal]}/v1/analytics/summary -H 'X-Api-Key: {office}'
"""


def main() -> int:
    """Runs the platform until Ctrl-C, with its data in the folder given or in `.run`; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / ".run"
    print("starting store, broker, services and gateways …", flush=True)
    try:
        with running(directory) as stack:
            names = {"key": stack.keys["store-till"], "office": stack.keys["back-office"]}
            print(_WELCOME.format(urls=stack.urls, directory=directory, **names), flush=True)
            while True:
                time.sleep(1)
                for name in stack.restart_dead():
                    print(f"{name} had ended and was started again; see {directory}/{name}.log", flush=True)
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 0
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"cannot run: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
