"""Start the platform's processes on one machine: the store, the broker and any number of services.

`make up`, `make demo` and `make test` all start their processes here, so that each has its data and log in the
caller's directory, and is gone when its starter is gone, however that ended.
"""

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import socket
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from typing import IO, Any

import pika
from pika.exceptions import AMQPError
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parents[1]
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
Check = Callable[[], object]  # raises until a process is ready

# Below the range (32768 up) from which the kernel takes the ports of outgoing connections: there, a client could get
# the port between the moment it is found free and the moment its server binds it. A count never offers one twice.
_PORTS = itertools.count(os.getpid() * 10)

# Every process has a guard, which reads a pipe that only the starter holds open. When the starter is gone (by kill -9,
# too) the guard ends the process group it shares: politely, and after five seconds by force. PR_SET_PDEATHSIG would
# reach one process only, fire when the starting *thread* ends, and need a fork hook, which is unsafe beside threads.
_GUARDED = """exec 3<&0 </dev/null
(   trap '' TERM
    read -r _ <&3
    kill -s TERM -- -$$
    for half_second in 1 2 3 4 5 6 7 8 9 10; do kill -s 0 $$ || break; sleep 0.5; done
    kill -s KILL -- -$$
) 2>/dev/null &
exec "$@" 3<&-"""


@dataclass(frozen=True)
class Process:
    """One started process, leader of a process group of its own."""

    name: str
    popen: Popen[bytes]
    log: Path
    log_start: int
    lifeline: IO[bytes]
    check: Check

    @property
    def alive(self) -> bool:
        """Whether the process itself (not merely a child of it) still runs."""
        return self.popen.poll() is None

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the process group, unless it has ended (and its number may be another's by now)."""
        if not self.lifeline.closed:
            with contextlib.suppress(ProcessLookupError):  # somebody else ended the whole group
                os.killpg(self.popen.pid, signum)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Send SIGTERM to the process group, and SIGKILL to what is left after its leader's end or the timeout."""
        stop_all([self], timeout=timeout)

    def kill(self) -> None:
        """End the process group at once, as a crash would."""
        with self.popen:  # which closes the lifeline and waits
            self.signal(signal.SIGKILL)

    def tail(self) -> str:
        """Return the last lines that this process (not an earlier one with the same log) has written."""
        written = self.log.read_bytes()[self.log_start :].decode(errors="replace")
        return "\n".join(written.splitlines()[-20:]) or "(nothing)"


@dataclass(frozen=True)
class Server:
    """A server's address and its processes; none when it was running before and is somebody else's to stop."""

    uri: str
    processes: tuple[Process, ...] = ()

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


def free_port() -> int:
    """Return a TCP port that nothing listens on, a different one at every call."""
    ports = (20_000 + number % 10_000 for number in _PORTS)
    return next(port for port in ports if is_free(port))


def is_free(port: int) -> bool:
    """Say whether nothing listens on a TCP port of this machine."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def stop_all(processes: Sequence[Process], *, timeout: float = STOP_TIMEOUT) -> None:
    """Stop several processes, the last first; all are asked to end before any is waited for."""
    for process in reversed(processes):
        process.signal(signal.SIGTERM)
    for process in reversed(processes):
        with contextlib.suppress(TimeoutExpired):  # what follows is right in either case
            process.popen.wait(timeout)
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
    process = _launch("store", argv, env=_environment(), directory=data.parent, check=partial(_ping, uri))
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
    launch = partial(_launch, env=_broker_environment(directory.resolve(), port, mapper_port), directory=directory)
    # Left to itself, the node would start a port mapper as a daemon, which nothing ends.
    epmd = launch("epmd", [mapper, "-port", f"{mapper_port}", "-address", HOST], check=partial(_connect, mapper_uri))
    await_ready([epmd])
    node = launch("broker", [server], check=partial(_open_amqp, uri))
    await_ready([epmd, node] if wait else [])
    return Server(uri, (epmd, node))


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
    env = _environment(PYTHONPATH=os.pathsep.join(own), PYTHONUNBUFFERED="1") | dict(settings)
    check = partial(_get, ready_url) if ready_url else bool
    process = _launch(name, [sys.executable, "-m", module, role], env=env, directory=directory, check=check)
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


def await_ready(processes: Sequence[Process], *, timeout: float = START_TIMEOUT) -> None:
    """Wait until every process is ready; when one is not, stop them all and say why, quoting its log."""
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as failure:
        failure.callback(stop_all, processes)
        for process in processes:
            _await(process.name, process.check, process=process, deadline=deadline)
        failure.pop_all()


def _await(what: str, check: Check, *, deadline: float, process: Process | None = None) -> None:
    while process is None or process.alive:
        try:
            check()
            return
        except (OSError, PyMongoError, AMQPError) as error:
            if time.monotonic() > deadline:
                log = f"; its log ends:\n{process.tail()}" if process else ""
                raise RuntimeError(f"{what} is not ready in time: {error!r}{log}") from error
        time.sleep(0.05)
    raise RuntimeError(f"{what} exited with status {process.popen.returncode}; its log ends:\n{process.tail()}")


def _launch(name: str, argv: Sequence[str], *, env: dict[str, str], directory: Path, check: Check) -> Process:
    directory.mkdir(parents=True, exist_ok=True)
    log, guarded = directory.resolve() / f"{name}.log", ["/bin/sh", "-c", _GUARDED, name, *argv]
    with log.open("ab") as output:
        # The open log is the lock: whatever can still write to it holds it. So a restart waits for the last process of
        # a killed predecessor, and two starters cannot use one data directory at a time.
        lock = partial(fcntl.flock, output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _await(f"{log}, held by another process,", lock, deadline=time.monotonic() + STOP_TIMEOUT)
        start, streams = output.seek(0, os.SEEK_END), {"stdin": PIPE, "stdout": output, "stderr": STDOUT}
        popen = Popen(guarded, cwd=directory, env=env, start_new_session=True, **streams)  # type: ignore[call-overload]
        return Process(name, popen, log, start, popen.stdin, check)


def _environment(**settings: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8", **settings}


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


def _broker_environment(directory: Path, port: int, mapper_port: int) -> dict[str, str]:
    directory.mkdir(parents=True, exist_ok=True)
    limits = "disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 512MB\nconsumer_timeout = 300000\n"
    (directory / "rabbitmq.conf").write_text(f"listeners.tcp.1 = {HOST}:{port}\n{limits}")
    (directory / "enabled_plugins").write_text("[].\n")
    # No busy waiting, which buys latency with whole cores; and no other machine's nodes.
    flags = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
    # Each of these has a default in /etc, which has no business here; those not written above need not exist.
    files = {"CONFIG_FILE": "rabbitmq.conf", "CONFIG_FILES": "conf.d", "CONF_ENV_FILE": "rabbitmq-env.conf"}
    files |= {"ENABLED_PLUGINS_FILE": "enabled_plugins", "ADVANCED_CONFIG_FILE": "advanced.config"}
    return _environment(**{f"RABBITMQ_{key}": str(directory / name) for key, name in files.items()}) | {
        "HOME": str(directory),  # where Erlang keeps the node's cookie
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": HOST,
        "RABBITMQ_NODENAME": "guanxi@localhost",  # always the same: the data directory is named after it
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOGS": "-",  # to the output, and so to the log that error messages quote
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": flags,
    }
