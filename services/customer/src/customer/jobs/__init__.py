"""The worker's own long jobs: import files are worked off here, each by the worker that holds its partition."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event as StopSignal
from time import monotonic

from crm.customer.v1 import transfer_pb2
from pymongo.errors import PyMongoError

from chassis import idempotency, identity, log
from chassis.errors import Conflict, Unavailable
from chassis.events import partition
from chassis.reads import Reader
from chassis.store import Session, Store, transact
from chassis.work import Work
from customer.commands import imports
from customer.commands.imports import Batch, Job
from customer.jobs import reading
from customer.jobs.reading import Failed, Layout
from customer.queries.imports import running
from customer.store import FILES, IMPORTS

BATCH_SECONDS = 15.0
IDLE_SECONDS = 0.3
TURN_SECONDS = 2.0  # of a job while others wait for theirs

GoOn = Callable[[], bool]


def run(store: Store, held: Callable[[], frozenset[int]], stop: StopSignal, *, region: str) -> None:
    """Works off the imports of this worker's partitions until `stop`, several in turn."""

    def mine() -> list[Job]:
        return [job for job in running(Reader(store)) if partition(job.import_id) in held()]

    while not stop.is_set():
        try:
            jobs = mine()
            for job in jobs:
                _serve(store, job, stop, _turn(job, mine, stop), region=region)
            if not jobs:
                stop.wait(IDLE_SECONDS)
        except (Unavailable, PyMongoError) as error:
            log.warning("imports wait for the store", error=error)
            stop.wait(1.0)


def _turn(job: Job, mine: Callable[[], list[Job]], stop: StopSignal) -> GoOn:
    """Says whether a job may go on: for `TURN_SECONDS` at least, and for as long as no other waits."""
    ends = monotonic() + TURN_SECONDS
    alone = [job.import_id]
    return lambda: not stop.is_set() and (monotonic() < ends or [one.import_id for one in mine()] == alone)


def _serve(store: Store, job: Job, stop: StopSignal, go_on: GoOn, *, region: str) -> None:
    try:
        _go_on_with(store, job, go_on, region=region)
    except Conflict as conflict:
        log.info("import goes on elsewhere", import_id=job.import_id, reason=conflict.reason)
        stop.wait(IDLE_SECONDS)


def work_off(store: Store, job: Job, stop: StopSignal, *, region: str) -> None:
    """Goes on with a job from where its last batch ended, until its file is done or `stop`.

    Raises `Conflict` when somebody else goes on with it.
    """
    _go_on_with(store, job, lambda: not stop.is_set(), region=region)


def _go_on_with(store: Store, job: Job, go_on: GoOn, *, region: str) -> None:
    try:
        how = reading.layout(store, job)
        job = _described(store, job, how)
        job, done = _worked(store, job, how, go_on, region=region)
    except Failed as failure:
        return _end(store, job, transfer_pb2.IMPORT_STATUS_FAILED, error=str(failure))
    if done:
        _end(store, job, transfer_pb2.IMPORT_STATUS_COMPLETED)


def _worked(store: Store, job: Job, how: Layout, go_on: GoOn, *, region: str) -> tuple[Job, bool]:
    """Commits batches, each while the next is made ready, for as long as `go_on`; whether the file is done then."""
    batches = map(partial(imports.prepare, store, job), reading.batches(store, job, how, region=region))
    with ThreadPoolExecutor(1, thread_name_prefix="import") as ahead:
        following = ahead.submit(next, batches, None)
        while (batch := following.result()) is not None:
            goes_on = go_on()
            if goes_on:
                following = ahead.submit(next, batches, None)
            job = _commit(store, job, batch)
            if not goes_on:
                return job, False
    return job, True


def _described(store: Store, job: Job, how: Layout) -> Job:
    if not how.columns:
        return job  # each record says what it holds

    def body(session: Session) -> Job:
        work = _begin(store, session, job)
        after = imports.describe_mapping(work, job, how.targets, set(how.columns) - set(how.targets))
        work.flush()
        return after

    return transact(store, body)


def _commit(store: Store, job: Job, batch: Batch) -> Job:
    def body(session: Session) -> Job:
        work = _begin(store, session, job)
        after = imports.take_batch(work, job, batch)
        work.flush()
        return after

    return transact(store, body, seconds=BATCH_SECONDS)


def _begin(store: Store, session: Session, job: Job) -> Work:
    caller = identity.system("customer")
    return idempotency.begin(store, session, caller, source="customer", operation=f"import {job.import_id}")


def _end(store: Store, job: Job, status: transfer_pb2.ImportStatus, *, error: str = "") -> None:
    def body(session: Session) -> None:
        work = _begin(store, session, job)
        imports.finished(work, work.get(IMPORTS, job.import_id), status, error=error)
        work.flush()

    try:
        transact(store, body)
    except Conflict as conflict:
        log.info("import had ended already", import_id=job.import_id, reason=conflict.reason)
        return
    store[FILES].delete_many({"import_id": job.import_id})
    log.info("import ended", import_id=job.import_id, rows=job.rows, rejected=job.rejected, failed=bool(error))
