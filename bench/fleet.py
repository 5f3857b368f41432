"""The whole platform as `make up` starts it: how long until it is ready, and how much memory its processes hold."""

import time
from pathlib import Path

import onebox
import stack
from bench import databases
from bench.figures import Figure, Plan, Target, alone
from bench.ground import redirected

STARTS = 3
SETTLED_SECONDS = 5.0
READY = Target(15, of="value", unit="s")
MEMORY = Target(1.5, of="value", unit="GB")
Sizes = dict[str, float]


def measure(plan: Plan) -> list[Figure]:
    """Several starts from nothing; the memory is read some seconds after the last process was ready."""
    databases.redirect()
    starts = [_start(plan.directory / f"fleet-{number}") for number in range(min(STARTS, plan.rounds))]
    sizes = [one for _, one in starts]
    whole = [sum(one.values()) / 1024 for one in sizes]
    processes = [
        alone(f"resident memory of {name}", "MB", [one[name] for one in sizes if name in one]) for name in sizes[0]
    ]
    note = "store, broker, databases and keys included"
    return [
        alone("fleet, start to ready", "s", [seconds for seconds, _ in starts], READY, note=note),
        alone("resident memory of the fleet", "GB", whole, MEMORY, note=f"{len(sizes[0])} processes, just started"),
        *processes,
    ]


def _start(directory: Path) -> tuple[float, Sizes]:
    started = time.monotonic()
    with stack.running(directory, settings=redirected()) as running:
        seconds = time.monotonic() - started
        time.sleep(SETTLED_SECONDS)
        servers = {one.name: one for one in (*running.store.processes, *running.broker.processes)}
        sizes = {name: _megabytes(one) for name, one in (servers | running.processes).items()}
    if not running.store.processes:  # it was there before and stays
        databases.drop_all(running.store.uri)
    return seconds, sizes


def _megabytes(process: onebox.Process) -> float:
    """Resident memory of a process and its children; pages they share are counted for each, so it is no less."""
    return round(sum(_kilobytes(path, process.popen.pid) for path in Path("/proc").glob("[0-9]*")) / 1024, 1)


def _kilobytes(path: Path, group: int) -> int:
    """Resident memory of a process of this group; 0 for all others."""
    try:
        belongs = int((path / "stat").read_text("utf-8").rpartition(")")[2].split()[2]) == group
        lines = (path / "status").read_text("utf-8").splitlines() if belongs else []
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has just ended
    return sum(int(one.split()[1]) for one in lines if one.startswith("VmRSS"))
