"""What is broken, when, and for how long: drawn from a seed, the same for the same seed."""

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pika

from chaos.fleet import Fleet
from chassis import broker, events, log

CLASSES = ("kill", "freeze", "store", "broker", "cut", "hole", "slow", "slice", "clock", "unbind", "disk")
DISK_BYTES = 1_500_000_000
FIRST_SECONDS = 3.0
LEFT_FREE = 20_000_000  # less than the broker's limit of 50 MB
EVERY_PARTITION = "partition all"
SKEWS = (-600, -300, 300, 600)


@dataclass(frozen=True)
class Fault:
    """One thing that breaks `at` seconds after the start and is mended `seconds` later."""

    at: float
    kind: str
    target: str
    seconds: float
    amount: int = 0

    def __str__(self) -> str:
        amount = f" {self.amount:+d} s" if self.amount else ""
        return f"{self.kind} {self.target}{amount} for {self.seconds:.0f} s"


def possible(fleet: Fleet) -> list[str]:
    """The classes that can be done here: a disk is filled only where a small one could be mounted."""
    small = (fleet.directory / "small-disk").exists()
    return [one for one in CLASSES if one != "disk" or small]


def schedule(fleet: Fleet, *, seed: int, count: int, gap: float, kinds: list[str], targets: str = "") -> list[Fault]:
    """`count` faults, each class about as often as the others; every fifth comes together with the next.

    `targets` limits processes and links to those whose names begin so.
    """
    chance = random.Random(f"faults:{seed}")
    drawn = [kinds[number % len(kinds)] for number in range(count)]
    chance.shuffle(drawn)
    found, at = [], FIRST_SECONDS
    for number, kind in enumerate(drawn):
        found.append(_draw(fleet, chance, kind, at, targets))
        at += 0.3 if number % 5 == 4 else gap * chance.uniform(0.7, 1.3)
    return found


def _draw(fleet: Fleet, chance: random.Random, kind: str, at: float, targets: str) -> Fault:
    parts = fleet.names(targets) or sorted(fleet.parts)
    links = [one for one in sorted(fleet.network.links) if one.startswith(targets)] or sorted(fleet.network.links)
    draws: dict[str, Callable[[], str]] = {
        "kill": lambda: chance.choice(parts),
        "freeze": lambda: chance.choice(parts),
        "clock": lambda: chance.choice(parts),
        "unbind": lambda: EVERY_PARTITION if targets == EVERY_PARTITION else f"partition {chance.randrange(16)}",
        "store": lambda: "store",
        "broker": lambda: "broker",
        "disk": lambda: "broker",
    }
    target = draws.get(kind, lambda: chance.choice(links))()
    longest = {"freeze": 15.0, "clock": 12.0}.get(kind, 6.0)
    seconds = chance.uniform(2.0, longest) if kind not in ("kill", "store", "broker") else 0.0
    return Fault(at, kind, target, seconds, chance.choice(SKEWS) if kind == "clock" else 0)


class Breaker:
    """Carries a schedule out, each fault on a thread of its own, and keeps a record."""

    def __init__(self, fleet: Fleet, record: Path) -> None:
        self._fleet, self._record = fleet, record
        self._lock = threading.Lock()
        self.done: list[Fault] = []
        self.failures: list[str] = []
        self.mended = 0.0

    def run(self, faults: list[Fault], say: Callable[[str], None]) -> None:
        """Breaks and mends; returns when the last fault is mended."""
        started, threads = time.monotonic(), []
        for fault in faults:
            time.sleep(max(0.0, started + fault.at - time.monotonic()))
            thread = threading.Thread(target=self._one, args=(fault, say), name=str(fault))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        self.mended = time.time()

    def _one(self, fault: Fault, say: Callable[[str], None]) -> None:
        say(str(fault))
        began = time.time()
        try:
            with _ACTIONS[fault.kind](self._fleet, fault):
                time.sleep(fault.seconds)
        except Exception as error:  # a fault that cannot be made or mended spoils the run: it is told at the end
            log.error("fault failed", fault=str(fault), error=error)
            self.failures.append(f"{fault}: {error!r}")
        with self._lock, self._record.open("a", encoding="utf-8") as lines:
            self.done.append(fault)
            lines.write(json.dumps({"began": began, "ended": time.time(), **asdict(fault)}) + "\n")


# --- how each is done ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _kill(fleet: Fleet, fault: Fault) -> Iterator[None]:
    fleet.kill(fault.target)
    yield


@contextlib.contextmanager
def _freeze(fleet: Fleet, fault: Fault) -> Iterator[None]:
    process = fleet.processes[fault.target]
    fleet.freeze(fault.target, frozen=True)
    yield
    if fleet.processes[fault.target] is process:
        fleet.freeze(fault.target, frozen=False)


@contextlib.contextmanager
def _restart(fleet: Fleet, fault: Fault) -> Iterator[None]:
    fleet.restart(fault.target)
    yield


@contextlib.contextmanager
def _link(fleet: Fleet, fault: Fault) -> Iterator[None]:
    fleet.network.turn(fault.target, fault.kind)
    yield
    fleet.network.turn(fault.target, "open")


@contextlib.contextmanager
def _clock(fleet: Fleet, fault: Fault) -> Iterator[None]:
    fleet.skew(fault.target, fault.amount)
    yield
    fleet.skew(fault.target, 0)


@contextlib.contextmanager
def _unbind(fleet: Fleet, fault: Fault) -> Iterator[None]:
    """Takes the bindings of one partition or of all away, as a slip would: its events have no queue then."""
    chosen = range(events.PARTITIONS) if fault.target == EVERY_PARTITION else [int(fault.target.rpartition(" ")[2])]
    bound = [(f"{name}.{one}", f"crm.customer.v1.*.{one}") for name in fleet.consumers for one in chosen]
    with _channel(fleet) as channel:
        for queue, key in bound:
            channel.queue_unbind(queue, broker.EXCHANGE, key)
    yield
    with _channel(fleet) as channel:
        for queue, key in bound:
            channel.queue_bind(queue, broker.EXCHANGE, key)


@contextlib.contextmanager
def _channel(fleet: Fleet) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    """A channel to the broker itself; waits while another fault has taken that away."""
    ends = time.monotonic() + 60
    while True:
        try:
            connection = pika.BlockingConnection(pika.URLParameters(fleet.broker.uri))
            break
        except (pika.exceptions.AMQPError, OSError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.5)
    with contextlib.closing(connection):
        yield connection.channel()


@contextlib.contextmanager
def _disk(fleet: Fleet, _fault: Fault) -> Iterator[None]:
    """Fills the broker's file system until the broker blocks its publishers."""
    ballast = fleet.directory / "broker" / "ballast"
    free = os.statvfs(ballast.parent)
    size = free.f_bavail * free.f_frsize - LEFT_FREE
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size))
    yield
    ballast.unlink()


_ACTIONS: dict[str, Callable[[Fleet, Fault], contextlib.AbstractContextManager[None]]] = {
    "kill": _kill,
    "freeze": _freeze,
    "store": _restart,
    "broker": _restart,
    "cut": _link,
    "hole": _link,
    "slow": _link,
    "slice": _link,
    "clock": _clock,
    "unbind": _unbind,
    "disk": _disk,
}


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[bool]:
    """A small file system for the broker, where this user may mount one; says whether there is one."""
    where = directory / "broker"
    where.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(where)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if mounted:
        (directory / "small-disk").touch()
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(where)], check=False)
