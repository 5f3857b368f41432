"""The worker's own long jobs: import files are worked off here, each by the worker that holds its partition."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from threading import Event as StopSignal
from typing import Any

from crm.customer.v1 import transfer_pb2
from pymongo.errors import PyMongoError

from chassis import idempotency, identity, log
from chassis.errors import Conflict, Invalid, Unavailable, Violation
from chassis.events import partition
from chassis.reads import Reader
from chassis.store import Session, Store, transact
from chassis.work import Work
from customer.commands import imports
from customer.commands.customers import definitions
from customer.commands.imports import Batch, Job, Row
from customer.queries.imports import pieces, running
from customer.rules import files, mapping
from customer.rules.files import Record, Unreadable
from customer.store import FILES, IMPORTS

BATCH_ROWS = 500
BATCH_BYTES = 1024 * 1024
BATCH_SECONDS = 15.0
IDLE_SECONDS = 0.3
LOOKED_AT = 100  # records of a JSON Lines file whose keys are its columns


@dataclass(frozen=True)
class Layout:
    """How a file's records become customers."""

    job: Job
    plan: mapping.Plan
    columns: list[str]  # of CSV; empty for JSON Lines
    data_start: int  # where the first record behind the header begins
    data_line: int


class Failed(Exception):
    """The file as a whole cannot be imported; the text says why."""


def run(store: Store, held: Callable[[], frozenset[int]], stop: StopSignal, *, region: str) -> None:
    """Works off the imports of this worker's partitions until `stop`."""
    while not stop.is_set():
        try:
            mine = [job for job in running(Reader(store)) if partition(job.import_id) in held()]
            for job in mine:
                work_off(store, job, stop, region=region)
            if not mine:
                stop.wait(IDLE_SECONDS)
        except Conflict:
            log.info("import goes on elsewhere")
        except (Unavailable, PyMongoError) as error:
            log.warning("imports wait for the store", error=error)
            stop.wait(1.0)


def work_off(store: Store, job: Job, stop: StopSignal, *, region: str) -> None:
    """Goes on with a job from where its last batch ended, until its file is done or `stop`."""
    try:
        layout = _layout(store, job)
        job = layout.job
        prepare = partial(_prepared, store, layout, region=region)
        for batch in _ahead(map(prepare, _batches(_records(store, layout, job)))):
            job = _commit(store, job, batch)
            if stop.is_set():
                return
    except Failed as failure:
        return _end(store, job, transfer_pb2.IMPORT_STATUS_FAILED, error=str(failure))
    _end(store, job, transfer_pb2.IMPORT_STATUS_COMPLETED)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, each read while the one before is being committed."""
    with ThreadPoolExecutor(1, thread_name_prefix="import") as reading:
        following = reading.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = reading.submit(next, batches, None)
            yield batch


# --- how the file is read --------------------------------------------------------------------------------------------


def _layout(store: Store, job: Job) -> Layout:
    """Reads the beginning of the file; raises `Failed` where no customer can come of it."""
    csv = job.format == transfer_pb2.FILE_FORMAT_CSV
    first = list(islice(files.records(pieces(store, job, 0), quoted=csv), 1 if csv else LOOKED_AT))
    columns = _header(first[0]) if csv else []
    found = columns or _keys(first)
    defined = definitions(Reader(store))
    chosen = dict(job.mapping) or mapping.guess(found, defined)
    _check(chosen, found, defined, whole=not csv and "names" in found)
    if not job.mapping or not job.ignored_columns:
        job = _described(store, job, chosen, set(found) - set(chosen))
    start, line = (first[0].end, 1 + first[0].lines) if csv else (0, 1)
    return Layout(job, mapping.plan(chosen, defined), columns, start, line)


def _described(store: Store, job: Job, chosen: dict[str, str], ignored: set[str]) -> Job:
    def body(session: Session) -> Job:
        work = _begin(store, session, job)
        after = imports.describe_mapping(work, job, chosen, ignored)
        work.flush()
        return after

    return transact(store, body)


def _header(record: Record) -> list[str]:
    try:
        return files.header(record)
    except Unreadable as problem:
        raise Failed(f"the header {problem}") from None


def _keys(records: list[Record]) -> list[str]:
    found: dict[str, None] = {}
    for record in records:
        row = _row(record, [])
        found |= dict.fromkeys(row if isinstance(row, dict) else ())
    return list(found)


def _check(chosen: dict[str, str], columns: list[str], defined: mapping.Attributes, *, whole: bool) -> None:
    absent = [one for one in chosen if one not in columns]
    if absent:
        raise Failed(f"the file has no column {absent[0]!r}")
    try:
        mapping.check(chosen, defined)
    except Invalid as error:
        raise Failed(error.message) from None
    if not whole and not any(target.startswith("names") for target in chosen.values()):
        raise Failed("no column holds a name: say in `mapping` which one does")


def _records(store: Store, layout: Layout, job: Job) -> Iterator[Record]:
    start = max(job.done_bytes, layout.data_start)
    line = max(job.done_lines + layout.data_line, layout.data_line)
    csv = bool(layout.columns)
    return files.records(pieces(store, job, start), quoted=csv, start=start, line=line)


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.data or b"")
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _prepared(store: Store, layout: Layout, records: list[Record], *, region: str) -> Batch:
    rows = [_read(layout, record) for record in records if not files.is_blank(record)]
    end, lines = records[-1].end, sum(record.lines for record in records)
    return imports.prepare(store, layout.job, rows, how=layout.plan, end=end, lines=lines, region=region)


# --- a batch ---------------------------------------------------------------------------------------------------------


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


def _read(layout: Layout, record: Record) -> Row:
    text = (record.data or b"").decode("utf-8", "replace").rstrip("\r\n")
    row = _row(record, layout.columns)
    if isinstance(row, Invalid):
        return Row(record.line, text, refused=row)
    try:
        return Row(record.line, text, customer=mapping.customer_of(row, layout.plan))
    except Invalid as error:
        return Row(record.line, text, refused=error)


def _row(record: Record, columns: list[str]) -> dict[str, Any] | Invalid:
    try:
        return files.csv_row(record, columns) if columns else files.json_row(record)
    except Unreadable as problem:
        return Invalid([Violation("", f"the row {problem}")])


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
