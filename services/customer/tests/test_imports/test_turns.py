"""Several imports at once, workers that die or meet: everybody gets a turn, and each row is taken in once."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from crm.customer.v1 import customer_pb2, transfer_pb2

from chassis import testing
from chassis.events import PARTITIONS
from chassis.reads import Reader
from chassis.store import Store
from customer import jobs
from customer.jobs import reading
from customer.queries.imports import running
from customer.store import CUSTOMERS, IMPORTS, REJECTED

Register = Callable[..., customer_pb2.Customer]
COMPLETED = transfer_pb2.IMPORT_STATUS_COMPLETED
UPDATE = "IMPORT_MODE_UPDATE"

WORKING = """
import sys
from threading import Event
from customer import jobs
from customer.jobs import reading
from customer.queries.imports import running
from chassis.reads import Reader
from chassis.store import connect
reading.BATCH_ROWS = 20
store = connect(sys.argv[1], sys.argv[2])
for job in running(Reader(store)):
    jobs.work_off(store, job, Event(), region="CN")
"""


@contextmanager
def at_work(store: Store, workers: int = 1) -> Iterator[None]:
    """Workers that hold every partition, until the end of the block."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=jobs.run, args=(store, lambda: frozenset(range(PARTITIONS)), stop),
                         kwargs={"region": "CN"})
        for _ in range(workers)
    ]  # fmt: skip
    for one in threads:
        one.start()
    try:
        yield
    finally:
        stop.set()
        for one in threads:
            one.join()


def ended(loader: Any, job: Any, *, seconds: float = 60.0) -> Any:
    ends = time.monotonic() + seconds
    while (seen := loader.seen(job)).status == transfer_pb2.IMPORT_STATUS_RUNNING:
        assert time.monotonic() < ends, seen
        time.sleep(0.02)
    return seen


def named(prefix: str, count: int) -> str:
    return "name\n" + "".join(f"{prefix} {number}\n" for number in range(count))


def test_a_small_file_does_not_wait_for_a_large_one(loader: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 20)
    monkeypatch.setattr(jobs, "TURN_SECONDS", 0.1)
    large, small = loader.create(), loader.create()
    loader.upload(large, named("Large", 2000), piece=10_000)
    with at_work(store):
        while loader.seen(large).rows < 100:
            time.sleep(0.02)
        loader.upload(small, named("Small", 10))
        assert ended(loader, small).created == 10
        assert loader.seen(large).status == transfer_pb2.IMPORT_STATUS_RUNNING
        assert ended(loader, large).created == 2000
    assert len(set(loader.names())) == len(loader.names()) == 2010


def test_two_workers_that_both_think_a_job_is_theirs_take_each_row_once(
    loader: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 20)
    job = loader.create()
    loader.upload(job, named("Person", 300), piece=10_000)
    with at_work(store, workers=2):
        assert ended(loader, job).created == 300
    assert len(set(loader.names())) == len(loader.names()) == 300


def test_a_worker_that_is_not_wanted_waits_before_it_looks_again(
    loader: Any, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    job = loader.create()
    loader.upload(job, named("Person", 3))
    # As if another worker were always one step ahead: where the job stands is never what was read.
    store[IMPORTS.name].update_one({"_id": job.import_id}, {"$set": {"done_bytes": 0}})
    caplog.set_level(logging.INFO, logger="crm")
    with at_work(store):
        time.sleep(1.5)
    met = [one for one in caplog.records if one.message == "import goes on elsewhere"]
    assert 2 <= len(met) <= 5


# --- kill -9 ---------------------------------------------------------------------------------------------------------


def killed(loader: Any, store: Store, uri: str, job: Any, seed: int) -> Any:
    """The job when it has ended; its worker was killed four times on the way."""
    chance, deaths = random.Random(seed), 0
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ends = time.monotonic() + 250
    while running(Reader(store)):
        assert time.monotonic() < ends
        command = [sys.executable, "-c", WORKING, uri, store.database.name]
        with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as worker:
            if deaths < 4:
                before = Reader(store).get(IMPORTS, job.import_id).rows
                while worker.poll() is None and Reader(store).get(IMPORTS, job.import_id).rows == before:
                    time.sleep(0.02)
                time.sleep(chance.random() * 0.1)
                worker.send_signal(signal.SIGKILL)
                deaths += 1
            worker.wait(120)
    assert deaths == 4
    return loader.seen(job)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_an_import_killed_at_random_points_takes_each_row_once(
    loader: Any, store: Store, mongodb_uri: str, seed: int
) -> None:
    rows = [f"Person {number},bad\n" if number % 50 == 7 else f"Person {number},\n" for number in range(600)]
    job = loader.create()
    loader.upload(job, "name,birthday\n" + "".join(rows), piece=1000)
    done = killed(loader, store, mongodb_uri, job, seed)
    assert (done.status, done.rows, done.imported, done.created, done.rejected) == (COMPLETED, 600, 588, 588, 12)
    assert loader.names() == sorted(row.split(",")[0] for row in rows if "bad" not in row)
    assert store[REJECTED].count_documents({}) == 12
    registered = [one for one in testing.published(store) if one.type.endswith("CustomerRegistered")]
    assert len({one.aggregate_id for one in registered}) == len(registered) == 588


@pytest.mark.slow
def test_an_update_killed_at_random_points_changes_each_customer_once(
    loader: Any, store: Store, mongodb_uri: str
) -> None:
    loader.imported(named("Person", 400))
    numbers = sorted(one["customer_number"] for one in store[CUSTOMERS.name].find({}))
    job = loader.create(mode=UPDATE)
    loader.upload(job, "customer_number,interests\n" + "".join(f"{one},i{one[-4:]}\n" for one in numbers), piece=1000)
    done = killed(loader, store, mongodb_uri, job, 3)
    assert (done.status, done.updated, done.unchanged, done.rejected) == (COMPLETED, 400, 0, 0)
    found = list(store[CUSTOMERS.name].find({}))
    assert all(one["version"] == 2 and one["interests"] == [f"i{one['customer_number'][-4:]}"] for one in found)
    changed = [one for one in testing.published(store) if one.type.endswith("CustomerUpdated")]
    assert len({one.aggregate_id for one in changed}) == len(changed) == 400
