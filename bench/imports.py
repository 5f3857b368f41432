"""The rate of an import beside a plain `insert_many` of the same documents: `python -m bench.imports 20000`.

Both write to the same store in the same run, in turns; the ratio is the median of the rounds. Memory is the worker's.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from threading import Event

from crm.customer.v1 import transfer_pb2
from pymongo import UpdateOne

import onebox
from chassis.events import clock, uuid7
from chassis.migrations import migrate
from chassis.store import Store, connect
from customer import __main__ as wiring
from customer import jobs
from customer.store import CUSTOMERS, FILES, IMPORTS
from simulator.loading import generated
from simulator.people import crowd

ROUNDS = 3


def main() -> None:
    """Imports, inserts and prints one JSON line."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    rounds = [_round(number, count) for number in range(ROUNDS)]
    ratio = statistics.median(one["import"] / one["plain"] for one in rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"rows": count, "rounds": rounds, "ratio": round(ratio, 2), "peak_mb": peak}))


def _round(number: int, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="guanxi-bench-") as directory:
        server = onebox.start_store(Path(directory))
        schema = wiring.service(wiring.CustomerSettings()).whole_schema
        store = connect(server.uri, f"customer{number}", schema=schema)
        migrate(store, schema)
        started = time.perf_counter()
        jobs.work_off(store, _job(store, number, count), Event(), region="CN")
        imported = count / (time.perf_counter() - started)
        plain = count / _plain(store, server.uri)
        server.stop()
    return {"import": round(imported, 1), "plain": round(plain, 1)}


def _job(store: Store, seed: int, count: int) -> transfer_pb2.ImportJob:
    now = clock()
    job = transfer_pb2.ImportJob(
        import_id=uuid7(now),
        version=2,
        format=transfer_pb2.FILE_FORMAT_CSV,
        status=transfer_pb2.IMPORT_STATUS_RUNNING,
        upload_id="bench",
    )
    job.start_time.FromDatetime(now)
    for piece in generated(list(crowd(seed, count))).pieces():
        row = {"import_id": job.import_id, "upload_id": "bench", "offset": job.size_bytes, "data": piece, "at": now}
        store[FILES].insert_one(row)
        job.size_bytes += len(piece)
    store[IMPORTS.name].bulk_write([UpdateOne({"_id": job.import_id}, {"$set": IMPORTS.document(job)}, upsert=True)])
    return job


def _plain(store: Store, uri: str) -> float:
    """Seconds to insert the same documents, in batches as large, into a collection with the same indexes."""
    documents = list(store[CUSTOMERS.name].find({}))
    plain = connect(uri, "plain")
    migrate(plain, {CUSTOMERS.name: CUSTOMERS.indexes})
    started = time.perf_counter()
    for start in range(0, len(documents), jobs.BATCH_ROWS):
        plain[CUSTOMERS.name].insert_many(documents[start : start + jobs.BATCH_ROWS])
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
