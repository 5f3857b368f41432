"""The rate of an import beside a plain `insert_many` of the same documents.

Each round has databases of its own, and both write to one store; the ratio is the median of the rounds. The import runs
in a process that does nothing else, as a worker's; its peak memory is measured for files of N and 4N rows.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from crm.customer.v1 import transfer_pb2
from pymongo import UpdateOne

import onebox
from bench import databases
from bench.apart import helper
from bench.figures import Figure, Plan, Target, alone, compared
from chassis.events import clock, uuid7
from chassis.reads import Reader
from chassis.store import Document, Store, connect
from customer import __main__ as wiring
from customer import jobs
from customer.jobs.reading import BATCH_ROWS
from customer.queries.imports import running
from customer.store import CUSTOMERS, FILES, IMPORTS
from simulator.loading import generated
from simulator.people import crowd

ROUNDS = 3
LARGER = 4
SCHEMA = wiring.service(wiring.CustomerSettings()).whole_schema
RATE = Target(0.6, at_least=True)
FLAT = Target(1.15)  # of a file four times as long


@dataclass(frozen=True)
class Imported:
    """What an import took: seconds, and megabytes at most."""

    seconds: float
    peak_mb: float


def measure(plan: Plan) -> list[Figure]:
    """Files of one size in turns with the yardstick, and one file four times as long."""
    rounds = [_round(plan, number) for number in range(min(ROUNDS, plan.rounds))]
    with _filled(plan.directory / "imports-large", ROUNDS, LARGER * plan.rows) as (store, uri):
        large = _imported(uri, store)
    note = "yardstick: `insert_many` of the same documents, same indexes, same batches"
    peaks = [(large.peak_mb, ours.peak_mb) for ours, _ in rounds]
    rates = [(plan.rows / ours.seconds, plan.rows / plain) for ours, plain in rounds]
    return [
        compared(f"import, {plan.rows:,} rows", "rows/s", rates, RATE, note=note),
        compared(
            f"import, peak memory with {LARGER * plan.rows:,} rows", "MB", peaks, FLAT,
            note=f"yardstick: the same with {plan.rows:,} rows; flat is up to {FLAT.bound}",
        ),
        alone(f"import, {LARGER * plan.rows:,} rows", "rows/s", [LARGER * plan.rows / large.seconds]),
    ]  # fmt: skip


def _round(plan: Plan, number: int) -> tuple[Imported, float]:
    with _filled(plan.directory / f"imports-{number}", number, plan.rows) as (store, uri):
        return _imported(uri, store), _plain(store, uri)


# --- the file, and the process that imports it -----------------------------------------------------------------------


@contextmanager
def _filled(directory: Path, seed: int, count: int) -> Iterator[tuple[Store, str]]:
    """A store with a job whose file is complete."""
    server = onebox.start_store(directory)
    try:
        with databases.fresh(server.uri, "customer", SCHEMA) as store:
            _upload(store, seed, count)
            yield store, server.uri
    finally:
        server.stop()


def _upload(store: Store, seed: int, count: int) -> None:
    now = clock()
    job = transfer_pb2.ImportJob(
        import_id=uuid7(now),
        version=2,
        format=transfer_pb2.FILE_FORMAT_CSV,
        mode=transfer_pb2.IMPORT_MODE_CREATE,
        status=transfer_pb2.IMPORT_STATUS_RUNNING,
        upload_id="bench",
    )
    job.start_time.FromDatetime(now)
    for piece in generated(list(crowd(seed, count))).pieces():
        row = {"import_id": job.import_id, "upload_id": "bench", "offset": job.size_bytes, "data": piece, "at": now}
        store[FILES].insert_one(row)
        job.size_bytes += len(piece)
    store[IMPORTS.name].bulk_write([UpdateOne({"_id": job.import_id}, {"$set": IMPORTS.document(job)}, upsert=True)])


def _imported(uri: str, store: Store) -> Imported:
    """What it takes a fresh process to import what is there."""
    with helper() as process:
        return process.run(work_off, uri, store.database.name)


def work_off(uri: str, database: str) -> Imported:
    """Imports the one job that waits; the whole work of a process."""
    store = connect(uri, database, schema=SCHEMA)
    (job,) = running(Reader(store))
    started = time.perf_counter()
    jobs.work_off(store, job, Event(), region="CN")
    seconds = time.perf_counter() - started
    store.close()
    return Imported(seconds, _peak_kilobytes() / 1024)


def _peak_kilobytes() -> int:
    # Not `getrusage`: its peak counts what the parent had before this program was loaded.
    (line,) = (one for one in Path("/proc/self/status").read_text("ascii").splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1])


# --- the yardstick ---------------------------------------------------------------------------------------------------


def _plain(store: Store, uri: str) -> float:
    """Seconds to insert the same documents, in batches as large, into a collection with the same indexes."""
    seconds = 0.0
    with databases.fresh(uri, "plain", {CUSTOMERS.name: CUSTOMERS.indexes}) as plain:
        for batch in _batches(store):
            started = time.perf_counter()
            plain[CUSTOMERS.name].insert_many(batch)
            seconds += time.perf_counter() - started
    return seconds


def _batches(store: Store) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in store[CUSTOMERS.name].find({}, batch_size=BATCH_ROWS):
        batch.append(document)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
