"""Clients that ask again as soon as they have their answer; each function is the whole work of a helper process."""

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import chain, count, cycle
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from pymongo import MongoClient, WriteConcern
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from bench import made
from chassis import outbox
from chassis.store import Document
from customer.store import CUSTOMERS

WARM = 20  # requests of each client before the clock runs
MOST_FAILED = 0.01
MAJORITY = WriteConcern("majority", j=True)
Ask = Callable[[], object]


class Refused(Exception):
    """An answer that is not the one asked for."""


@dataclass(frozen=True)
class Crowd:
    """So many clients at once, for so many seconds."""

    clients: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """What clients got in some seconds: answers a second, and how long each took (milliseconds, sorted)."""

    rate: float
    milliseconds: list[float] = field(repr=False)
    failed: int = 0

    def at(self, share: float) -> float:
        """The time that so large a share of the answers did not exceed, in milliseconds."""
        return self.milliseconds[min(int(share * len(self.milliseconds)), len(self.milliseconds) - 1)]

    @property
    def p50(self) -> float:
        """The median, in milliseconds."""
        return statistics.median(self.milliseconds)


def drive(make: Callable[[int], Ask], crowd: Crowd) -> Run:
    """Lets clients ask, each what `make` gives it; raises `Refused` when one answer in a hundred is none."""
    asks = [make(number) for number in range(crowd.clients)]
    with ThreadPoolExecutor(crowd.clients) as pool:
        list(pool.map(_warm, asks))
        started = time.perf_counter()
        done = list(pool.map(lambda ask: _repeat(ask, started + crowd.seconds), asks))
        lasted = time.perf_counter() - started
    times = sorted(chain.from_iterable(times for times, _ in done))
    refusals = list(chain.from_iterable(refusals for _, refusals in done))
    if len(refusals) > MOST_FAILED * len(times) or not times:
        raise Refused(f"{len(refusals)} of {len(times) + len(refusals)} failed, the first with {refusals[0]}")
    return Run(len(times) / lasted, times, len(refusals))


def _warm(ask: Ask) -> None:
    for _ in range(WARM):
        with suppress(Refused):  # what is wrong will be wrong again when it counts
            ask()


def _repeat(ask: Ask, ends: float) -> tuple[list[float], list[str]]:
    times: list[float] = []
    refusals: list[str] = []
    before = time.perf_counter()
    while before < ends:
        try:
            ask()
        except Refused as error:
            refusals.append(str(error))
        else:
            times.append((time.perf_counter() - before) * 1000)
        before = time.perf_counter()
    return times, refusals


# --- HTTP ------------------------------------------------------------------------------------------------------------


def _requester(url: str, key: str) -> Callable[..., bytes]:
    """Sends requests over one connection: not with a comfortable library, which would cost more than what it asks."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=15)

    def request(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        connection.request(method, path, body, {"X-Api-Key": key, "Accept-Encoding": "identity", **headers})
        response = connection.getresponse()
        answer: bytes = response.read()
        if response.status >= 300:
            raise Refused(f"{response.status} {answer[:300].decode(errors='replace')}")
        return answer

    return request


def gets(url: str, key: str, paths: list[str], crowd: Crowd) -> Run:
    """Reads these paths in turn, each client from another place on."""

    def make(number: int) -> Ask:
        request, turns = _requester(url, key), cycle(paths[number * 37 % len(paths) :] + paths[: number * 37])
        return lambda: request("GET", next(turns))

    return drive(make, crowd)


def creates(url: str, key: str, crowd: Crowd) -> Run:
    """Registers customers, each under a key of its own."""
    bodies = [json.dumps(one).encode() for one in made.several(made.bodies(500), 500)]

    def make(number: int) -> Ask:
        request, turns = _requester(url, key), cycle(bodies[number * 37 :] + bodies[: number * 37])
        kind = {"Content-Type": "application/json"}
        return lambda: request("POST", "/v1/customers", next(turns), **kind, **{"Idempotency-Key": str(uuid4())})

    return drive(make, crowd)


# --- the store, plainly ----------------------------------------------------------------------------------------------


def finds(uri: str, database: str, collection: str, queries: list[dict[str, Any]], crowd: Crowd) -> Run:
    """`find_one` with these filters in turn."""
    with MongoClient[dict[str, Any]](uri) as client:
        kept = client[database][collection]

        def make(number: int) -> Ask:
            turns = cycle(queries[number * 37 % len(queries) :] + queries[: number * 37])
            return lambda: _found(kept.find_one(next(turns)))

        return drive(make, crowd)


def _found(document: object) -> None:
    if document is None:
        raise Refused("not there")


def transactions(uri: str, database: str, crowd: Crowd, indexed: bool = False) -> Run:
    """Transactions that insert two documents, the record and the event of a registration, and no more: nothing derived,
    nothing looked up, no indexes but `_id`, or with `indexed` those that the platform needs."""
    with MongoClient[dict[str, Any]](uri) as client:
        kept = client.get_database(database, write_concern=MAJORITY)
        names = _collections(kept, indexed=indexed)
        documents, serials, mark = made.pairs(500), count(), uuid4().hex

        def insert() -> None:
            # The next of a `cycle` or a `count` is taken under the interpreter lock, so clients may share them.
            key, pair = f"{mark}{next(serials)}", next(documents)
            with client.start_session() as session, session.start_transaction(ReadConcern("snapshot"), MAJORITY):
                for name, document in zip(names, pair, strict=True):
                    kept[name].insert_one({**document, "_id": key, **_unique(document, key)}, session=session)

        return drive(lambda _: insert, crowd)


def _collections(kept: Database[dict[str, Any]], *, indexed: bool) -> list[str]:
    """Where records and events go; made where they are not there."""
    wanted = {"records": CUSTOMERS.indexes, "events": outbox.SCHEMA[outbox.COLLECTION]}
    names = {f"{'indexed' if indexed else 'plain'}_{name}": indexes for name, indexes in wanted.items()}
    present = kept.list_collection_names()
    for name, indexes in names.items():
        if name not in present:
            kept.create_collection(name)
            for one in indexes if indexed else ():
                kept[name].create_index(one.pairs, name=one.name, **one.options)
    return list(names)


def _unique(document: Document, key: str) -> Document:
    """What must not be there twice."""
    return {name: key for name in ("customer_number", "keys") if name in document}
