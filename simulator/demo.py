"""The main job on real input: `python -m simulator.demo`; DATA=<csv>, CUSTOMERS=<n>, SEED=<n> choose it."""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import stack
from simulator import check, loading, readback, report, scenario
from simulator.channel import Channel, Json
from simulator.check import Findings
from simulator.loading import Source
from simulator.people import Person, crowd
from simulator.scenario import Ledger
from stack import Stack

AT_COUNTERS = 200
MET = 85
LOOKED_UP, CHANGED, TALKED = 40, 15, 30


@dataclass
class Day:
    """One run: the platform, its channels, what is true, and what was measured."""

    platform: Stack
    channels: Mapping[str, Channel]
    ledger: Ledger
    seed: int
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str, *, indent: int = 2) -> None:
        """A line of the report."""
        print(f"{' ' * indent}{text}", flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A section of the report with the time it took."""
        started = time.monotonic()
        print(f"\n{title}", flush=True)
        yield
        self.say(f"({time.monotonic() - started:.1f} s)")


def main() -> int:
    """Runs the demo; returns 0 when everything held."""
    seed, data = int(os.environ.get("SEED", "1")), os.environ.get("DATA", "")
    try:
        source, counters = _chosen(data, seed)
    except (OSError, ValueError) as problem:
        print(f"{data} cannot be loaded: {problem}", file=sys.stderr)
        return 1
    print("Guanxi, the main job on real input", flush=True)
    print("starting store, broker, two services as serve and work, three gateways …", flush=True)
    with tempfile.TemporaryDirectory(prefix="guanxi-demo-") as directory, _running(Path(directory)) as platform:
        day = Day(platform, _channels(platform), Ledger(), seed)
        day.say(f"ready: {len(platform.processes)} processes")
        job = _take_in(day, source, counters)
        if day.ledger.met:
            _find(day)
            _change(day)
            _talk(day)
        findings = _compare(day)
        return report.tell(findings, day.channels, job, seconds=time.monotonic() - day.started)


def _chosen(data: str, seed: int) -> tuple[Source, list[Person]]:
    """The file to import, and the people who come to counters meanwhile; raises OSError or ValueError."""
    if data:
        return loading.read(Path(data)), []
    people = list(crowd(seed, int(os.environ.get("CUSTOMERS", "5000"))))
    return loading.generated(people[AT_COUNTERS:]), people[:AT_COUNTERS]


@contextmanager
def _running(directory: Path) -> Iterator[Stack]:
    with stack.running(directory, split=True) as platform:
        yield platform


def _channels(platform: Stack) -> dict[str, Channel]:
    doors = {"web-shop": "public", "mobile-app": "public"}
    return {
        name: Channel(name, platform.urls[doors.get(name, "internal")], platform.keys[name])
        for name in ("store-till", "web-shop", "mobile-app", "data-loader", "back-office")
    }


# --- the steps -------------------------------------------------------------------------------------------------------


def _take_in(day: Day, source: Source, counters: list[Person]) -> Json:
    """Returns the import's job when it has ended."""
    with day.step("1. Customers come in: a file, and people at counters"):
        loader, office = day.channels["data-loader"], day.channels["back-office"]
        scenario.define_attributes(office, source)
        job = scenario.start_import(loader, source)
        day.say(f"file of {int(job['size_bytes']):,} bytes uploaded; the import runs")
        walk_ins = threading.Thread(target=_at_counters, args=(day, counters))
        walk_ins.start()
        job = _watched(day, job)
        walk_ins.join()
        _settle(day, source, job)
        _meet(day)
    return job


def _at_counters(day: Day, people: list[Person]) -> None:
    if not people:
        return
    channels = [day.channels[name] for name in ("store-till", "web-shop", "mobile-app")]
    repeated = scenario.register(channels, people, day.ledger, day.seed)
    day.say(f"{len(people)} customers registered at {len(channels)} channels, {repeated} of them with a second click")


def _watched(day: Day, job: Json) -> Json:
    """The job when it has ended; the worker is killed once on the way."""
    killed = False
    for now in scenario.watch_import(day.channels["data-loader"], job):
        job, share = now, int(now["done_bytes"]) / int(now["size_bytes"])
        day.say(f"{share:4.0%}  {now['rows']:,} rows, {now['remaining_seconds']} s left")
        if not killed and 0 < share < 1:
            killed = True
            _kill(day, "customer-work")
            day.say("a new worker takes the job over when the lease of the dead one has run out (10 s)")
    return job


def _settle(day: Day, source: Source, job: Json) -> None:
    """Tells how the import ended, and takes it into account."""
    imported, rejected = int(job["imported"]), int(job["rejected"])
    day.say(f"import {str(job['status']).lower()}: {source.rows:,} rows, {imported:,} customers, {rejected:,} refused")
    reasons = [f"{count:,} × {reason}" for reason, count in scenario.refusals(day.channels["data-loader"], job)]
    for reason in reasons:
        day.say(reason, indent=4)
    if not source.people:
        day.say(f"columns read: {', '.join(f'{one} as {at}' for one, at in job['mapping'].items()) or 'none'}")
        day.say(f"columns left out: {', '.join(job['ignored_columns']) or 'none'}")
    scenario.settle(day.ledger, source, job, reasons)


def _meet(day: Day) -> None:
    """Picks those by chance who will be seen again, and takes note of what they carry."""
    everybody = readback.everybody(day.channels["data-loader"])
    for customer in readback.some(everybody, seed=day.seed, count=MET):
        day.ledger.met[customer["customer_number"]] = readback.recognised(customer, day.ledger.people)
    day.say(f"{len(day.ledger.met)} customers read back, to be met again")


def _kill(day: Day, name: str) -> None:
    day.platform.kill(name)
    day.say(f"kill -9 {name}")
    day.platform.start(name)


def _find(day: Day) -> None:
    with day.step("2. They are found by whatever they say, at every channel"):
        people = list(day.ledger.met.values())[:LOOKED_UP]
        channels = [day.channels[name] for name in ("store-till", "web-shop", "mobile-app")]
        counts = scenario.find(channels, people, day.ledger)
        day.say(", ".join(f"{count} by {what}" for what, count in counts.items()))
        median, p95 = (report.search_milliseconds(day.channels, share) for share in (50, 95))
        day.say(f"search through the gateway: median {median:.0f} ms, p95 {p95:.0f} ms")


def _change(day: Day) -> None:
    with day.step("3. Two channels change the same customer at the same moment"):
        people = list(day.ledger.met.values())[:CHANGED]
        pair = day.channels["store-till"], day.channels["web-shop"]
        conflicts = scenario.change_together(*pair, people, day.ledger)
        day.say(f"{len(people)} times one won; {conflicts} times the other read again and changed that")


def _talk(day: Day) -> None:
    with day.step("4. A conversation goes on at another channel, while analytics is killed"):
        people = list(day.ledger.met.values())[-TALKED:]
        half = len(people) // 2
        channels = {"WEB": day.channels["web-shop"], "STORE": day.channels["store-till"]}
        count = scenario.talk(channels, people[:half], day.ledger)
        day.platform.kill("analytics-work")
        day.say("kill -9 analytics-work")
        count += scenario.talk(channels, people[half:], day.ledger)
        day.platform.start("analytics-work")
        day.say(f"{count} conversations begun on the web and continued in a store")


def _compare(day: Day) -> Findings:
    with day.step("5. Wait until all is quiet, and compare with the truth"):
        uri = day.platform.store.uri
        day.ledger.expect(check.quiet(uri, seconds=90), "events on their way stood still for 90 seconds")
        return check.compare(uri, day.channels["data-loader"], day.channels["back-office"], day.ledger)


if __name__ == "__main__":
    sys.exit(main())
