"""The platform as a cluster runs it, on one machine: two of everything, proxies between the parts, a supervisor."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import onebox
import stack
from chaos.proxy import Network
from chassis import identity
from stack import Part

SUPERVISED_SECONDS = 0.25
READY_SECONDS = 60.0
CLIENTS = ("store-till", "back-office")
# How many of each process run, and what else they are told.
REPLICAS: Mapping[str, int] = {
    "gateway serve": 2,
    "customer serve": 2,
    "customer work": 2,
    "analytics work": 2,
    "witness work": 2,
}
FEW: Mapping[str, int] = {"gateway serve": 1, "customer serve": 1, "customer work": 1, "witness work": 2}
MODULES = {"witness": "chaos.witness"}


@dataclass
class Fleet:
    """What runs. A part that ends is started again at once, unless it is held down; `quiet` tells no story."""

    directory: Path
    network: Network
    store: onebox.Server
    broker: onebox.Server
    parts: dict[str, Part] = field(default_factory=dict)
    processes: dict[str, onebox.Process] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def consumers(self) -> list[str]:
        """The services that take events in."""
        return sorted(
            {part.settings["CHAOS_SERVICE"] for part in self.parts.values() if part.role == "work"} - {"customer"}
        )

    def names(self, beginning: str) -> list[str]:
        """The parts whose name begins so."""
        return sorted(name for name in self.parts if name.startswith(beginning))

    def launch(self, name: str) -> None:
        """Starts a part, without waiting until it is ready."""
        part = self.parts[name]
        with self.lock:
            self.starts[name] = self.starts.get(name, 0) + 1
            self.processes[name] = onebox.start_service(
                name,
                module=part.module,
                role=part.role,
                settings=part.settings,
                directory=self.directory,
                ready_url=part.ready_url,
                wait=False,
            )

    def kill(self, name: str) -> None:
        """kill -9; the supervisor starts it again."""
        self.processes[name].kill()

    def freeze(self, name: str, *, frozen: bool) -> None:
        """SIGSTOP or SIGCONT."""
        self.processes[name].signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def skew(self, name: str, seconds: int) -> None:
        """Makes the clock of one process wrong by so many seconds."""
        (self.directory / f"{name}.clock").write_text(str(seconds))

    def restart(self, server: str) -> None:
        """kill -9 of the store or the broker, and a new start on the same data and port."""
        with self.lock:
            old: onebox.Server = getattr(self, server)
            port = urlsplit(old.uri).port
            old.kill()
            start = onebox.start_store if server == "store" else onebox.start_broker
            setattr(self, server, start(self.directory / server, port=port))

    def supervise(self, stop: threading.Event) -> None:
        """Starts again what has ended, as a cluster does."""
        while not stop.wait(SUPERVISED_SECONDS):
            for name, process in list(self.processes.items()):
                if not process.alive and name not in self.held:
                    process.kill()
                    self.launch(name)

    def await_ready(self, names: list[str] | None = None) -> None:
        """Waits until these parts, or all, are ready, however often they have to be started for it."""
        ends = time.monotonic() + READY_SECONDS
        for name in self.parts if names is None else names:
            while not self.is_ready(name):
                if time.monotonic() > ends:
                    raise RuntimeError(f"{name} is not ready; its log ends:\n{self.processes[name].tail()}")
                time.sleep(0.1)

    def is_ready(self, name: str) -> bool:
        """Whether a part says that it is ready."""
        try:
            self.processes[name].check()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Stops every part."""
        onebox.stop_all(list(self.processes.values()), timeout=30)


@contextlib.contextmanager
def running(directory: Path, *, bug: str = "", replicas: Mapping[str, int] = REPLICAS) -> Iterator[Fleet]:
    """Everything, ready, with a supervisor; with `bug`, the services run with one deliberate break."""
    directory.mkdir(parents=True, exist_ok=True)
    network = Network()
    with onebox.infrastructure(directory) as (database, broker):
        fleet = Fleet(directory, network, database, broker)
        stop = threading.Event()
        try:
            _prepare(fleet, bug, replicas)
            for name in fleet.parts:
                fleet.launch(name)
            threading.Thread(target=fleet.supervise, args=(stop,), name="supervisor", daemon=True).start()
            fleet.await_ready()
            yield fleet
        finally:
            stop.set()
            fleet.stop()
            network.close()
            # The infrastructure stops what it started; what took its place is ours to stop.
            fleet.broker.stop()
            fleet.store.stop()


def _prepare(fleet: Fleet, bug: str, replicas: Mapping[str, int]) -> None:
    identity.write_keys(fleet.directory)
    services = {kind.split()[0] for kind in replicas}
    stack.migrate(dict.fromkeys(services, _direct(fleet)), fleet.directory, modules=MODULES)
    fleet.keys = stack.client_keys(fleet.directory, fleet.store.uri, {name: stack.CLIENTS[name] for name in CLIENTS})
    ports = _rpc_ports(replicas["customer serve"])
    for kind, count in replicas.items():
        service, role = kind.split()
        if service == "gateway":
            continue
        settings = _service(fleet, service)
        for number in range(count):
            rpc = ports[number] if role == "serve" else onebox.free_port()
            _add(fleet, f"{service}-{role}-{number}", service, role, {**settings, "RPC_PORT": str(rpc)}, bug)
    for number in range(replicas["gateway serve"]):
        links = [
            _link(fleet, f"gateway-{number}>customer-{one}", (onebox.HOST, port)) for one, port in enumerate(ports)
        ]
        _gateway(fleet, number, links)


def _rpc_ports(count: int) -> list[int]:
    return [onebox.free_port() for _ in range(count)]


def _direct(fleet: Fleet) -> dict[str, str]:
    """Settings of a process that no proxy stands in front of."""
    keys = {"IDENTITY_KEYS_FILE": str(fleet.directory / "identity-keys.json"), "TOKEN_SECRET": "of this run only"}
    return {"MONGODB_URI": fleet.store.uri, "AMQP_URL": fleet.broker.uri, **keys}


def _service(fleet: Fleet, service: str) -> dict[str, str]:
    """Settings of a service whose store and broker are behind links."""
    store, broker = urlsplit(fleet.store.uri), urlsplit(fleet.broker.uri)
    # Directly, or the driver would ask the store for its own address and go there.
    through = _behind(fleet, f"{service}>store", store)._replace(query="directConnection=true")
    return _direct(fleet) | {
        "MONGODB_URI": through.geturl(),
        "AMQP_URL": _behind(fleet, f"{service}>broker", broker).geturl(),
    }


def _behind(fleet: Fleet, name: str, uri: SplitResult) -> SplitResult:
    port = _link(fleet, name, (uri.hostname or "", uri.port or 0))
    who, at, _ = uri.netloc.rpartition("@")
    return uri._replace(netloc=f"{who}{at}127.0.0.1:{port}")


def _link(fleet: Fleet, name: str, target: tuple[str, int]) -> int:
    if name not in fleet.network.links:
        fleet.network.add(name, port=onebox.free_port(), target=target)
    return fleet.network.links[name].port


def _gateway(fleet: Fleet, number: int, customers: list[int]) -> None:
    port = onebox.free_port()
    addresses = ",".join(f"127.0.0.1:{one}" for one in customers)
    key = {"IDENTITY_KEY_FILE": str(fleet.directory / "identity-key.json")}
    where = {"CUSTOMER_ADDRESS": f"ipv4:{addresses}", "ANALYTICS_ADDRESS": "127.0.0.1:1"}
    settings = {"MONGODB_URI": fleet.store.uri, "POLICY": "internal", "PORT": str(port), **key, **where}
    _add(fleet, f"gateway-{number}", "gateway", "serve", settings, "")
    fleet.urls.append(f"http://127.0.0.1:{port}")


def _add(fleet: Fleet, name: str, service: str, role: str, settings: Mapping[str, str], bug: str) -> None:
    http, health = onebox.free_port(), onebox.free_port()
    ports = {"HTTP_PORT": str(http), "HEALTH_PORT": str(health)}
    clock = fleet.directory / f"{name}.clock"
    clock.write_text("0")
    chaos = {"CHAOS_MODULE": MODULES.get(service, service), "CHAOS_CLOCK": str(clock), "CHAOS_BUG": bug,
             "CHAOS_SERVICE": service}  # fmt: skip
    url = f"http://127.0.0.1:{http}/readyz"
    fleet.parts[name] = Part(name, "chaos.started", role, {**settings, **ports, **chaos}, url)
