"""The rate of an import beside a plain `insert_many` of the same documents: `python -m bench.imports 5000`.

Each round has a store of its own, and both write to it; the ratio is the median of the rounds. The import runs in a
process that does nothing else, as a worker's; its peak memory is measured for two sizes of the file, N and 4N rows.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from crm.customer.v1 import transfer_pb2
from pymongo import UpdateOne

import onebox
from chassis.events import clock, uuid7
from chassis.migrations import migrate
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


def main() -> None:
    """Imports, inserts and prints one JSON line; with `--import <uri>` it is the process that only imports."""
    if "--import" in sys.argv:
        return _import(sys.argv[-1])
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    rounds = [_round(number, count) for number in range(ROUNDS)]
    with _filled(ROUNDS, LARGER * count) as (_, uri):
        large = _imported(uri)
    ratio = statistics.median(one["import"] / one["plain"] for one in rounds)
    peaks = {count: max(one["peak_mb"] for one in rounds), LARGER * count: large["peak_mb"]}
    print(json.dumps({"rows": count, "rounds": rounds, "ratio": round(ratio, 2), "peak_mb": peaks}))


def _round(number: int, count: int) -> dict[str, float]:
    with _filled(number, count) as (store, uri):
        done = _imported(uri)
        plain = _plain(store, uri)
    return {"import": round(count / done["seconds"], 1), "plain": round(count / plain, 1), "peak_mb": done["peak_mb"]}


# --- the file, and the process that imports it -----------------------------------------------------------------------


@contextmanager
def _filled(seed: int, count: int) -> Iterator[tuple[Store, str]]:
    """A store with a job whose file is complete."""
    with tempfile.TemporaryDirectory(prefix="guanxi-bench-") as directory:
        server = onebox.start_store(Path(directory))
        store = connect(server.uri, "customer", schema=SCHEMA)
        migrate(store, SCHEMA)
        _upload(store, seed, count)
        yield store, server.uri
        store.close()
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


def _imported(uri: str) -> dict[str, float]:
    """Seconds and peak memory, in megabytes, of a process that imports what is there."""
    command = [sys.executable, "-m", "bench.imports", "--import", uri]
    done: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return done


def _import(uri: str) -> None:
    store = connect(uri, "customer", schema=SCHEMA)
    (job,) = running(Reader(store))
    started = time.perf_counter()
    jobs.work_off(store, job, Event(), region="CN")
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mb": _peak_kilobytes() // 1024}))


def _peak_kilobytes() -> int:
    # Not `getrusage`: its peak counts what the parent had before this program was loaded.
    (line,) = (one for one in Path("/proc/self/status").read_text("ascii").splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1])


# --- the yardstick ---------------------------------------------------------------------------------------------------


def _plain(store: Store, uri: str) -> float:
    """Seconds to insert the same documents, in batches as large, into a collection with the same indexes."""
    plain = connect(uri, "plain")
    migrate(plain, {CUSTOMERS.name: CUSTOMERS.indexes})
    seconds = 0.0
    for batch in _batches(store):
        started = time.perf_counter()
        plain[CUSTOMERS.name].insert_many(batch)
        seconds += time.perf_counter() - started
    plain.close()
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


if __name__ == "__main__":
    main()
