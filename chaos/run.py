"""One run: the fleet, clients and faults together, then silence, and the comparison."""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onebox
from chaos import checker, faults, fleet, state
from chaos.checker import Findings
from chaos.fleet import Fleet
from chaos.history import OK, UNKNOWN, History
from chaos.workload import Client, Known
from chassis.store import Store, connect

QUIET_SECONDS = 180.0
ASKED_AGAIN = 200
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What one run does. It ends when all faults are mended and `writes` are acknowledged, or after `seconds`."""

    seed: int
    clients: int
    writes: int
    count: int
    seconds: float
    gap: float
    kinds: tuple[str, ...] = faults.CLASSES
    targets: str = ""
    bug: str = ""
    replicas: Mapping[str, int] = field(default_factory=lambda: fleet.REPLICAS)
    quiet_seconds: float = QUIET_SECONDS
    pause: float = 0.0
    rows: int = 0  # of each file that is imported beside all else; 0 for none

    @property
    def consumers(self) -> list[str]:
        """The services that take events in."""
        return [name for name in ("analytics", "witness") if f"{name} work" in self.replicas]


@dataclass
class Outcome:
    """What a run showed. `converged` is the time from the last mend to silence, in seconds."""

    plan: Plan
    writes: int = 0
    calls: int = 0
    unknown: int = 0
    made: Counter[str] = field(default_factory=Counter)
    converged: float = 0.0
    left: str = ""
    findings: Findings = field(default_factory=Findings)
    spoiled: list[str] = field(default_factory=list)
    restarts: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all was kept, and the run itself was sound."""
        return self.findings.ok and not self.left and not self.spoiled


def run(plan: Plan, directory: Path, say: Say) -> Outcome:
    """Runs a plan with its data, logs, history and faults in `directory`."""
    outcome, started = Outcome(plan), time.monotonic()
    directory.mkdir(parents=True, exist_ok=True)
    with faults.small_disk(directory), fleet.running(directory, bug=plan.bug, replicas=plan.replicas) as running:
        say(f"{len(running.parts)} processes, {len(running.network.links)} links, store and broker are ready")
        history = History(directory / "history.jsonl")
        _work(plan, running, history, outcome, say)
        _compare(plan, running, history, outcome, say)
        history.close()
    outcome.seconds = time.monotonic() - started
    return outcome


def _work(plan: Plan, running: Fleet, history: History, outcome: Outcome, say: Say) -> None:
    """Clients work and things break, side by side."""
    stop, known = threading.Event(), Known()
    key = running.keys["store-till"]
    clients = [Client(f"c{one}", running.urls, key, plan.seed, history, known) for one in range(plan.clients)]
    threads = [threading.Thread(target=one.run, args=(stop, plan.pause), name=one.name) for one in clients]
    loader = Client("loader", running.urls, running.keys["back-office"], plan.seed, history, known)
    if plan.rows:
        threads.append(threading.Thread(target=loader.load, args=(stop, plan.rows), name=loader.name))
    for thread in threads:
        thread.start()
    breaker = faults.Breaker(running, running.directory / "faults.jsonl")
    kinds = [one for one in faults.possible(running) if one in plan.kinds]
    drawn = faults.schedule(running, seed=plan.seed, count=plan.count, gap=plan.gap, kinds=kinds, targets=plan.targets)
    breaking = threading.Thread(target=breaker.run, args=(drawn, lambda text: say(f"  {text}")), name="faults")
    breaking.start()
    _watch(plan, history, breaking, say)
    breaking.join()
    stop.set()
    for thread in threads:
        thread.join()
    running.await_ready()
    _ask_again(plan, clients[0], history)
    for client in (*clients, loader):
        client.close()
    outcome.made = Counter(fault.kind for fault in breaker.done)
    outcome.spoiled += breaker.failures
    outcome.restarts = sum(running.starts.values()) - len(running.parts)


def _ask_again(plan: Plan, client: Client, history: History) -> None:
    """Repeats some acknowledged requests when all is well again: their answers were promised for days."""
    acknowledged = [call for call in history.calls if call.outcome == OK and call.request]
    for call in random.Random(plan.seed).sample(acknowledged, min(ASKED_AGAIN, len(acknowledged))):
        client.ask_again(call)


def _watch(plan: Plan, history: History, breaking: threading.Thread, say: Say) -> None:
    started = told = time.monotonic()
    while time.monotonic() - started < plan.seconds:
        done = sum(call.outcome == OK for call in history.calls)
        if not breaking.is_alive() and done >= plan.writes:
            return
        if time.monotonic() - told > 15:
            told = time.monotonic()
            say(f"{told - started:4.0f} s  {done:,} writes acknowledged, {len(history.calls):,} called")
        time.sleep(0.5)


def _compare(plan: Plan, running: Fleet, history: History, outcome: Outcome, say: Say) -> None:
    with _stores(running.store) as open_store:
        outcome.converged, outcome.left = state.quiet(open_store, plan.consumers, seconds=plan.quiet_seconds)
        say(f"quiet after {outcome.converged:.0f} s" if not outcome.left else f"not quiet: {outcome.left}")
        found = state.read(open_store, plan.consumers)
        if "analytics" in plan.consumers:
            _rebuild(running)
            found.rebuilt = state.totals(open_store("analytics"))
    outcome.calls = len(history.calls)
    outcome.writes = sum(call.outcome == OK for call in history.calls)
    outcome.unknown = sum(call.outcome == UNKNOWN for call in history.calls)
    outcome.findings = checker.check(history.calls, found)
    for line in outcome.findings.lines():
        say(f"  {line}")


@contextlib.contextmanager
def _stores(server: onebox.Server) -> Iterator[Callable[[str], Store]]:
    opened: dict[str, Store] = {}

    def open_store(name: str) -> Store:
        if name not in opened:
            opened[name] = connect(server.uri, name)
        return opened[name]

    try:
        yield open_store
    finally:
        for one in opened.values():
            one.close()


def _rebuild(running: Fleet) -> None:
    """Counts everything anew, as an operator would: with the workers of analytics at rest."""
    names = running.names("analytics-work")
    running.held |= set(names)
    for name in names:
        running.processes[name].stop()
    settings = running.parts[names[0]].settings
    done = onebox.start_service(
        "analytics-rebuild",
        module="analytics",
        role="rebuild",
        settings={name: value for name, value in settings.items() if not name.startswith("CHAOS")},
        directory=running.directory,
        ready_url=None,
    )
    if done.popen.wait(120) != 0:
        raise RuntimeError(f"the rebuild failed; its log ends:\n{done.tail()}")
    done.stop()


def say(text: str) -> None:
    """A line of the report, at once."""
    print(f"  {text}", flush=True)
