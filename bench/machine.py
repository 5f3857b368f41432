"""On what a run was measured."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pika
from pymongo import MongoClient

Machine = dict[str, str | int | float]


def machine(*, store_uri: str, amqp_url: str) -> Machine:
    """What to know of this machine, its store and its broker; `load` is what ran before the bench began, in cores."""
    memory = int(_field("/proc/meminfo", "MemTotal").split()[0]) / 1024**2
    return {
        "cores": os.cpu_count() or 0,
        "cpu": _field("/proc/cpuinfo", "model name"),
        "memory_gb": round(memory, 1),
        "os": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}",
        "python": platform.python_version(),
        **_store(store_uri),
        "broker": f"RabbitMQ {broker_version(amqp_url)}",
    }


def load() -> float:
    """How many processes ran at once in the last minute; a quiet machine has less than 0.3."""
    return round(os.getloadavg()[0], 2)


def _field(path: str, name: str) -> str:
    """The first value of this name in a file of `name : value` lines; "unknown" on processors that do not tell."""
    lines = (line.partition(":") for line in Path(path).read_text("utf-8").splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "unknown")


def _store(uri: str) -> Machine:
    with MongoClient[dict[str, Any]](uri) as client:
        embedded = client.admin.command("hello").get("setName") == "secantus"
        spoken = client.admin.command("buildInfo")["version"]
    if embedded:
        return {"store": f"SecantusDB {version('SecantusDB')}, journal synced", "store_dialect": "secantus"}
    return {"store": f"MongoDB {spoken}", "store_dialect": "mongodb"}


def broker_version(url: str) -> str:
    """What the broker says of itself; raises `ConnectionError` where it says nothing."""

    def opened(connection: Any) -> None:
        found.append(str(connection.server_properties["version"]))
        connection.close()

    found: list[str] = []
    connection: Any = pika.SelectConnection(
        pika.URLParameters(url),
        on_open_callback=opened,
        on_open_error_callback=lambda *_: connection.ioloop.stop(),
        on_close_callback=lambda *_: connection.ioloop.stop(),
    )
    connection.ioloop.start()
    if not found:
        raise ConnectionError("the broker does not answer")
    return found[0]
