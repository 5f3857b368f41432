"""The module that starts everything on one machine, tried with real processes."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from pymongo import MongoClient

import onebox

NEEDS_BROKER = pytest.mark.skipif(not shutil.which("epmd"), reason="rabbitmq-server is not installed")

STARTER = """
import sys, time
from pathlib import Path
import onebox
with onebox.infrastructure(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(300)
"""

SERVICE = """
import http.server, subprocess, sys, time
if sys.argv[1] == "fail":
    print("a reason on the last line", file=sys.stderr)
    raise SystemExit(3)
if sys.argv[1] == "hang":
    print("still thinking")
    time.sleep(300)
child = subprocess.Popen(["sleep", "300"])
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


@pytest.fixture(autouse=True)
def _own_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONGODB_URI", raising=False)
    monkeypatch.delenv("AMQP_URL", raising=False)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What a trial service needs in order to be found: a module on the path that services are given."""
    (tmp_path / "trial.py").write_text(SERVICE)
    settings = {"PYTHONPATH": str(tmp_path)}
    return {"module": "trial", "settings": settings, "directory": tmp_path}


def processes_of(directory: Path) -> dict[int, str]:
    """Every running process that names the directory in its arguments or its environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # not a process, or gone meanwhile
            if str(directory).encode() in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def left_behind(directory: Path, *, seconds: float) -> dict[int, str]:
    """What is left of the directory's processes after at most so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := processes_of(directory)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def started(server: onebox.Server) -> Iterator[onebox.Server]:
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def channel(uri: str) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(uri))
    try:
        yield connection.channel()
    finally:
        connection.close()


def publish(uri: str, body: bytes) -> None:
    with channel(uri) as broker:
        broker.queue_declare("trial", durable=True, arguments={"x-queue-type": "quorum"})
        broker.confirm_delivery()
        broker.basic_publish("", "trial", body, pika.BasicProperties(delivery_mode=2))


def fetch(uri: str) -> bytes | None:
    with channel(uri) as broker:
        _method, _properties, body = broker.basic_get("trial", auto_ack=True)
    return body


def test_free_ports_differ_and_are_no_clients_ports() -> None:
    ports = [onebox.free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(20_000 <= port < 30_000 for port in ports)


def test_a_taken_port_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind((onebox.HOST, onebox.free_port()))
        rounds = [onebox.free_port() for _ in range(10_001)]
        assert taken.getsockname()[1] not in rounds


def test_the_store_keeps_its_data_across_restarts_on_another_port(tmp_path: Path) -> None:
    with started(onebox.start_store(tmp_path)) as store, MongoClient(store.uri) as client:
        client.trial.notes.insert_one({"_id": 1, "text": "kept"})
    assert left_behind(tmp_path, seconds=3) == {}
    with started(onebox.start_store(tmp_path)) as again, MongoClient(again.uri) as client:
        assert again.uri != store.uri
        assert client.trial.notes.find_one({"_id": 1}) == {"_id": 1, "text": "kept"}


def test_the_store_survives_a_crash_on_the_same_port(tmp_path: Path) -> None:
    port = onebox.free_port()
    with started(onebox.start_store(tmp_path, port=port)) as store:
        with MongoClient(store.uri) as client:
            client.trial.notes.insert_one({"_id": 1})
        store.kill()
    with started(onebox.start_store(tmp_path, port=port)) as again, MongoClient(again.uri) as client:
        assert again.uri == store.uri
        assert client.trial.notes.find_one({"_id": 1}) == {"_id": 1}


def test_a_store_that_cannot_start_says_why(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((onebox.HOST, onebox.free_port()))
        with pytest.raises(RuntimeError, match=r"(?s)store exited with status 1.*ddress already in use"):
            onebox.start_store(tmp_path, port=taken.getsockname()[1])
    assert left_behind(tmp_path, seconds=3) == {}


def test_a_directory_belongs_to_one_store_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onebox.processes, "STOP_TIMEOUT", 0.2)
    with started(onebox.start_store(tmp_path)), pytest.raises(RuntimeError, match=r"store\.log, held by another"):
        onebox.start_store(tmp_path)


def test_a_running_store_and_broker_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://elsewhere:1/")
    monkeypatch.setenv("AMQP_URL", "amqp://elsewhere:2/")
    with onebox.infrastructure(tmp_path) as (store, broker):
        assert (store.uri, store.process) == ("mongodb://elsewhere:1/", None)
        assert (broker.uri, broker.process) == ("amqp://elsewhere:2/", None)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_broker_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(RuntimeError, match=r"^rabbitmq-server is not installed.*`make setup`.*AMQP_URL[^\n]*$"):
        onebox.start_broker(tmp_path)


@NEEDS_BROKER
@pytest.mark.slow
def test_a_message_survives_stop_and_crash_of_the_broker(tmp_path: Path) -> None:
    with started(onebox.start_broker(tmp_path)) as broker:
        publish(broker.uri, b"kept")
    assert left_behind(tmp_path, seconds=3) == {}
    with started(onebox.start_broker(tmp_path)) as again:
        assert again.uri != broker.uri
        assert fetch(again.uri) == b"kept"
        publish(again.uri, b"kept, too")
        again.kill()
        assert left_behind(tmp_path, seconds=3) == {}
    with started(onebox.start_broker(tmp_path)) as last:
        assert fetch(last.uri) == b"kept, too"


@NEEDS_BROKER
@pytest.mark.slow
def test_two_infrastructures_run_side_by_side_and_leave_nothing(tmp_path: Path) -> None:
    with (
        onebox.infrastructure(tmp_path / "one") as (store, broker),
        onebox.infrastructure(tmp_path / "two") as (other_store, other_broker),
    ):
        publish(broker.uri, b"one")
        publish(other_broker.uri, b"two")
        assert fetch(broker.uri) == b"one"
        with MongoClient(store.uri) as client, MongoClient(other_store.uri) as other:
            client.trial.notes.insert_one({})
            assert other.trial.notes.count_documents({}) == 0
        names = " ".join(processes_of(tmp_path).values())
        assert "epmd" in names  # so that the scan below means something
        assert "beam.smp" in names
    assert left_behind(tmp_path, seconds=3) == {}


@NEEDS_BROKER
@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_end_of_the_starter_is_the_end_of_everything(tmp_path: Path, signum: signal.Signals) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(onebox.__file__).parents[1])}
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"ready\n"
        starter.send_signal(signum)
        starter.wait(20)
    assert left_behind(tmp_path, seconds=8) == {}


def test_a_service_is_ready_when_its_url_says_so_and_stops_with_its_children(service, tmp_path: Path) -> None:
    port = onebox.free_port()
    url = f"http://{onebox.HOST}:{port}/readyz"
    process = onebox.start_service("trial", role=str(port), ready_url=url, **service)
    assert process.alive
    assert "sleep 300 " in processes_of(tmp_path).values()
    process.stop()
    process.stop()  # harmless
    assert not process.alive
    assert left_behind(tmp_path, seconds=3) == {}


def test_services_are_started_together_and_awaited_together(service) -> None:
    ports = [onebox.free_port() for _ in range(3)]
    processes = [
        onebox.start_service(
            f"trial-{port}", role=str(port), ready_url=f"http://{onebox.HOST}:{port}/readyz", wait=False, **service
        )
        for port in ports
    ]
    onebox.await_ready(processes, timeout=20)
    assert all(process.alive for process in processes)
    onebox.stop_all(processes)
    assert not any(process.alive for process in processes)


def test_a_service_that_exits_at_once_is_quoted(service, tmp_path: Path) -> None:
    (tmp_path / "trial.log").write_text("a line of an earlier run\n")
    with pytest.raises(RuntimeError, match=r"(?s)trial exited with status 3.*a reason on the last line") as caught:
        onebox.start_service("trial", role="fail", ready_url="http://127.0.0.1:1/readyz", **service)
    assert "earlier run" not in str(caught.value)
    assert left_behind(tmp_path, seconds=3) == {}


def test_a_service_that_does_not_get_ready_is_quoted_and_stopped(service, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)trial is not ready in time.*refused.*still thinking"):
        onebox.start_service("trial", role="hang", ready_url="http://127.0.0.1:1/readyz", timeout=1.5, **service)
    assert left_behind(tmp_path, seconds=3) == {}


def test_a_service_that_is_alive_but_unready_is_not_waited_for_longer_than_asked(service) -> None:
    port = onebox.free_port()
    url = f"http://{onebox.HOST}:{port}/other"
    with pytest.raises(RuntimeError, match="503"):
        onebox.start_service("trial", role=str(port), ready_url=url, timeout=2, **service)


def test_a_service_inherits_nothing_but_the_minimum(service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "x")
    port = onebox.free_port()
    url = f"http://{onebox.HOST}:{port}/readyz"
    settings = {**service.pop("settings"), "ROLE_SETTING": "y"}
    process = onebox.start_service("trial", role=str(port), ready_url=url, settings=settings, **service)
    environment = Path(f"/proc/{process.popen.pid}/environ").read_bytes().split(b"\0")
    process.stop()
    names = {entry.partition(b"=")[0].decode() for entry in environment if entry}
    assert names - {"PWD", "OLDPWD"} == {"PATH", "HOME", "LANG", "PYTHONPATH", "PYTHONUNBUFFERED", "ROLE_SETTING"}


def test_a_process_that_ignores_the_request_to_end_is_killed(service, tmp_path: Path) -> None:
    (tmp_path / "trial.py").write_text("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVICE)
    process = onebox.start_service("trial", role="hang", ready_url=None, **service)
    time.sleep(0.5)
    before = time.monotonic()
    process.stop(timeout=0.5)
    assert time.monotonic() - before < 3
    assert process.popen.returncode == -signal.SIGKILL
