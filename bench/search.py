"""How long a search takes in the customer service: `python -m bench.search 1000000`.

Loads believable customers straight into a store of its own, then asks the service's own query for them by everything
they may say. The yardstick is a plain indexed `find_one` by customer number on the same store.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pymongo
from crm.customer.v1 import customer_pb2

import onebox
from bench import databases, made
from chassis.reads import Reader
from chassis.store import Store
from customer.queries import customers as directory
from customer.store import CUSTOMERS, SCHEMA
from simulator.people import Person, crowd

BATCH = 1000
ASKED = 200


def main() -> None:
    """Loads, asks and prints a JSON line for each kind of question."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(prefix="guanxi-bench-") as directory:
        server = onebox.start_store(Path(directory))
        with databases.fresh(server.uri, "search", SCHEMA) as store:
            sample = _load(store, count)
            for what, times in _ask(store, sample):
                print(json.dumps({"customers": count, "store": store.dialect, "by": what} | times), flush=True)
        server.stop()


def _load(store: Store, count: int) -> list[tuple[Person, str]]:
    """Loads so many customers; returns some of them with their numbers."""
    random, sample, started = Random(7), [], time.monotonic()
    for start, batch in enumerate(_batches(crowd(1, count))):
        customers = [made.customer(person, start * BATCH + at) for at, person in enumerate(batch)]
        with pymongo.timeout(120):
            store[CUSTOMERS.name].insert_many(map(CUSTOMERS.document, customers), ordered=False)
        known = zip(batch, (one.customer_number for one in customers), strict=True)
        sample += [one for one in known if random.random() < ASKED / count]
        if start % 50 == 49:
            print(f"{(start + 1) * BATCH:,} after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return sample


def _batches(people: Iterator[Person]) -> Iterator[list[Person]]:
    batch: list[Person] = []
    for person in people:
        batch.append(person)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _ask(store: Store, sample: list[tuple[Person, str]]) -> Iterator[tuple[str, dict[str, float]]]:
    sayings: dict[str, Callable[[Person], str]] = {
        "phone": lambda one: one.phone,
        "e-mail": lambda one: one.email,
        "document": lambda one: one.document or one.reference,
        "service number": lambda one: one.reference,
        "full name": lambda one: one.name,
    }
    numbers = [number for _, number in sample]
    yield "yardstick", _timed(lambda query: store[CUSTOMERS.name].find_one({"customer_number": query}), numbers)
    yield "customer number", _timed(lambda query: _search(store, query), numbers)
    for what, say in sayings.items():
        yield what, _timed(lambda query: _search(store, query), [say(person) for person, _ in sample])
    yield "two characters", _timed(lambda query: _search(store, query), [person.name[:2] for person, _ in sample])


def _search(store: Store, query: str) -> object:
    return directory.search_customers(Reader(store), customer_pb2.SearchCustomersRequest(query=query), region="CN")


def _timed(run: Callable[[str], object], queries: list[str]) -> dict[str, float]:
    times = []
    ends = time.monotonic() + 60
    for query in queries:
        started = time.perf_counter()
        run(query)
        times.append((time.perf_counter() - started) * 1000)
        if time.monotonic() > ends:
            break
    cuts = statistics.quantiles(times, n=100)
    return {"p50": round(cuts[49], 1), "p95": round(cuts[94], 1), "asked": len(times)}


if __name__ == "__main__":
    main()
