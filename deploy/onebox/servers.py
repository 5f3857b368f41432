"""The store, the broker and any service as processes of this machine."""

import contextlib
import os
import shutil
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import run
from typing import Any

import pika
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from onebox.processes import HOST, STOP_TIMEOUT, Process, await_ready, environment, free_port, launch, stop_all

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    """A server's address and its processes; none when it was running before and is somebody else's to stop.

    `environment` is what the server's own command-line tools need to find it.
    """

    uri: str
    processes: tuple[Process, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def process(self) -> Process | None:
        """The server's own process, the last to be started."""
        return self.processes[-1] if self.processes else None

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Stop what was started here."""
        stop_all(self.processes, timeout=timeout)

    def kill(self) -> None:
        """Crash what was started here."""
        for process in self.processes:
            process.kill()


def start_store(directory: Path, *, port: int | None = None, wait: bool = True) -> Server:
    """Start the store on the data in `directory`; MONGODB_URI names one that runs already."""
    if uri := os.environ.get("MONGODB_URI"):
        return Server(uri)
    data, port = directory.resolve() / "data", port or free_port()
    data.mkdir(parents=True, exist_ok=True)
    if mongod := shutil.which("mongod"):
        uri = f"mongodb://{HOST}:{port}/?replicaSet=rs0"
        argv = [mongod, "--replSet", "rs0", "--bind_ip", HOST, "--port", str(port), "--dbpath", str(data)]
        argv += ["--setParameter", "transactionLifetimeLimitSeconds=20"]  # see embedded_store.py
    else:
        uri = f"mongodb://{HOST}:{port}/?replicaSet=secantus"
        argv = [sys.executable, str(REPOSITORY / "deploy/embedded_store.py"), str(port), str(data)]
    process = launch("store", argv, env=environment(), directory=data.parent, check=partial(_ping, uri))
    await_ready([process] if wait else [])
    return Server(uri, (process,))


def start_broker(directory: Path, *, port: int | None = None, wait: bool = True) -> Server:
    """Start the broker on the data in `directory`; AMQP_URL names one that runs already."""
    if uri := os.environ.get("AMQP_URL"):
        return Server(uri)
    # Debian's rabbitmq-server on the PATH insists on a user of its own; the script it wraps does not.
    server = shutil.which("/usr/lib/rabbitmq/bin/rabbitmq-server") or shutil.which("rabbitmq-server")
    mapper = shutil.which("epmd")
    if not server or not mapper:
        raise RuntimeError("rabbitmq-server is not installed: run `make setup`, or set AMQP_URL to a running broker")
    port, mapper_port = port or free_port(), free_port()
    uri, mapper_uri = f"amqp://guest:guest@{HOST}:{port}/%2F", f"epmd://{HOST}:{mapper_port}"
    settings = _broker_settings(directory.resolve(), port, mapper_port)
    begin = partial(launch, env=settings, directory=directory)
    # Left to itself, the node would start a port mapper as a daemon, which nothing ends.
    epmd = begin("epmd", [mapper, "-port", f"{mapper_port}", "-address", HOST], check=partial(_connect, mapper_uri))
    await_ready([epmd])
    node = begin("broker", [server], check=partial(_open_amqp, uri))
    await_ready([epmd, node] if wait else [])
    return Server(uri, (epmd, node), settings)


def broker_control(broker: Server, *arguments: str) -> str:
    """Run `rabbitmqctl` against a broker that was started here; returns what it printed, raises where it fails."""
    tool = shutil.which("/usr/lib/rabbitmq/bin/rabbitmqctl") or "rabbitmqctl"
    done = run([tool, *arguments], env=dict(broker.environment), capture_output=True, text=True, check=True)
    return done.stdout


def start_service(
    name: str,
    *,
    module: str,
    role: str,
    settings: Mapping[str, str],
    directory: Path,
    ready_url: str | None,
    timeout: float = 30,
    wait: bool = True,
) -> Process:
    """Start `python -m module role`; without `wait` or a ready URL, do not wait until it is ready."""
    # Of the caller's import path what is the repository's own: a virtual environment inside it is not.
    paths = [path for path in map(os.path.realpath, sys.path) if "site-packages" not in path]
    own = [path for path in paths if Path(path).is_relative_to(REPOSITORY)]
    env = environment(PYTHONPATH=os.pathsep.join(own), PYTHONUNBUFFERED="1") | dict(settings)
    check = partial(_get, ready_url) if ready_url else bool
    process = launch(name, [sys.executable, "-m", module, role], env=env, directory=directory, check=check)
    await_ready([process] if wait else [], timeout=timeout)
    return process


@contextlib.contextmanager
def infrastructure(directory: Path) -> Iterator[tuple[Server, Server]]:
    """Start store and broker side by side below `directory`; at the end stop the broker, then the store."""
    with contextlib.ExitStack() as stack:
        store = start_store(directory / "store", wait=False)
        stack.callback(store.stop)
        broker = start_broker(directory / "broker", wait=False)
        stack.callback(broker.stop)
        await_ready([*store.processes, *broker.processes])
        yield store, broker


def _connect(uri: str) -> None:
    # Before any protocol: pymongo waits where it could fail at once, and pika logs every refusal as an error.
    parts = urllib.parse.urlsplit(uri)
    socket.create_connection((parts.hostname, parts.port), timeout=1).close()


def _get(url: str) -> None:
    # No proxy, whatever the environment says: the address is this machine's own.
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2).close()


def _ping(uri: str) -> None:
    _connect(uri)
    if uri.endswith("rs0"):  # mongod has to be told that it is a replica set of one, and its address when that changes
        member = {"_id": 0, "host": (address := urllib.parse.urlsplit(uri).netloc)}
        with MongoClient[dict[str, Any]](address, directConnection=True, serverSelectionTimeoutMS=1000) as client:
            try:
                config = client.admin.command("replSetGetConfig")["config"]
                if config["members"][0]["host"] != address:
                    config |= {"version": config["version"] + 1, "members": [member]}
                    client.admin.command("replSetReconfig", config, force=True)
            except OperationFailure:  # its first start; for any other reason this fails, too
                client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
    with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=1000) as client:
        client.admin.command("ping")


def _open_amqp(uri: str) -> None:
    _connect(uri)
    pika.BlockingConnection(pika.URLParameters(uri)).close()


def _broker_settings(directory: Path, port: int, mapper_port: int) -> dict[str, str]:
    directory.mkdir(parents=True, exist_ok=True)
    limits = "disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 512MB\nconsumer_timeout = 300000\n"
    (directory / "rabbitmq.conf").write_text(f"listeners.tcp.1 = {HOST}:{port}\n{limits}")
    (directory / "enabled_plugins").write_text("[].\n")
    # No busy waiting, which buys latency with whole cores; and no other machine's nodes.
    flags = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
    # Each of these has a default in /etc, which has no business here; those not written above need not exist.
    files = {"CONFIG_FILE": "rabbitmq.conf", "CONFIG_FILES": "conf.d", "CONF_ENV_FILE": "rabbitmq-env.conf"}
    files |= {"ENABLED_PLUGINS_FILE": "enabled_plugins", "ADVANCED_CONFIG_FILE": "advanced.config"}
    return environment(**{f"RABBITMQ_{key}": str(directory / name) for key, name in files.items()}) | {
        "HOME": str(directory),  # where Erlang keeps the node's cookie
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": HOST,
        "RABBITMQ_NODENAME": "guanxi@localhost",  # always the same: the data directory is named after it
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOGS": "-",  # to the output, and so to the log that error messages quote
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": flags,
    }
