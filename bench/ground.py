"""The servers and services a figure is measured on: fresh ones each, below a folder of the run."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onebox
import stack
from bench import databases
from chassis import identity
from gateway import keys
from gateway.store import SCHEMA as GATEWAY_SCHEMA

LIMITLESS = {"requests": 1_000_000_000, "seconds": 10}
SECRET = "a secret of the bench"
NOWHERE = f"{onebox.HOST}:1"


def redirected() -> dict[str, str]:
    """Settings that make a process use the databases of this run."""
    own = [one for one in sys.path if one and "site-packages" not in one and not one.startswith(sys.base_prefix)]
    path = os.pathsep.join([str(databases.FOLDER), *map(os.path.realpath, own)])
    return {"PYTHONPATH": path, "BENCH_PREFIX": databases.PREFIX}


@dataclass
class Ground:
    """A store, perhaps a broker, and the services started on them so far."""

    directory: Path
    store: onebox.Server
    broker: onebox.Server | None
    rpc_ports: dict[str, int] = field(default_factory=dict)
    processes: list[onebox.Process] = field(default_factory=list)

    @property
    def amqp_url(self) -> str:
        """The broker's address, or one where there is none, for roles that need no broker."""
        return self.broker.uri if self.broker else "amqp://guest:guest@127.0.0.1:1/%2F"

    def settings(self) -> dict[str, str]:
        """What every service is told."""
        return redirected() | {
            "MONGODB_URI": self.store.uri,
            "AMQP_URL": self.amqp_url,
            "TOKEN_SECRET": SECRET,
            "IDENTITY_KEYS_FILE": str(self.directory / "identity-keys.json"),
        }

    def migrate(self, *services: str) -> None:
        """Prepares their databases."""
        stack.migrate({name: self.settings() for name in services}, self.directory)

    def service(self, name: str, role: str) -> None:
        """Starts a role of a service."""
        rpc = self.rpc_ports.setdefault(name, onebox.free_port())
        ports = {"RPC_PORT": str(rpc), "HEALTH_PORT": str(onebox.free_port())}
        self.process(f"{name}-{role}", module=name, role=role, settings=self.settings() | ports)

    def process(self, name: str, *, module: str, role: str, settings: Mapping[str, str]) -> None:
        """Starts `python -m module role` and waits until it is ready on its HTTP_PORT."""
        http = onebox.free_port()
        started = onebox.start_service(
            name,
            module=module,
            role=role,
            settings={**settings, "HTTP_PORT": str(http)},
            directory=self.directory,
            ready_url=f"http://{onebox.HOST}:{http}/readyz",
        )
        self.processes.append(started)

    def gateway(self, *, customer: str = "") -> str:
        """Starts a gateway before the customer service, or before what answers at `customer`; returns its URL."""
        address = customer or f"{onebox.HOST}:{self.rpc_ports['customer']}"
        port = onebox.free_port()
        settings = redirected() | {
            "MONGODB_URI": self.store.uri,
            "IDENTITY_KEY_FILE": str(self.directory / "identity-key.json"),
            "PORT": str(port),
            "CUSTOMER_ADDRESS": address,
            "ANALYTICS_ADDRESS": NOWHERE,
        }
        self.process("gateway", module="gateway", role="serve", settings=settings)
        return f"http://{onebox.HOST}:{port}"

    def key(self, role: str = "store") -> str:
        """A key of a channel in this role, whose quota never ends."""
        opened = databases.opened(self.store.uri, "gateway", schema=GATEWAY_SCHEMA)
        made = keys.create(opened, f"bench-{role}", kind="channel", roles=[role], quota=LIMITLESS)
        opened.close()
        return made


@contextmanager
def ground(directory: Path, *, broker: bool = False) -> Iterator[Ground]:
    """A store and, where wanted, a broker; everything started on them ends with them."""
    directory.mkdir(parents=True, exist_ok=True)
    identity.write_keys(directory)
    with ExitStack() as servers:
        store = onebox.start_store(directory / "store")
        servers.callback(store.stop)
        if not store.processes:  # it stays when we are gone
            servers.callback(databases.drop_all, store.uri)
        rabbit = onebox.start_broker(directory / "broker") if broker else None
        if rabbit is not None:
            servers.callback(rabbit.stop)
        made = Ground(directory, store, rabbit)
        try:
            yield made
        finally:
            onebox.stop_all(made.processes)
