"""A batch is one transaction: what its rows do to customers with the events, its refused rows, and how far the file is
done. So a crash between two batches loses nothing, and one inside a batch undoes it; whoever goes on begins where the
last commit ended.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from crm.customer.v1 import customer_pb2, events_pb2, transfer_pb2
from pymongo import UpdateOne

from chassis import contract
from chassis.errors import Conflict, Invalid, invalid
from chassis.events import clock, uuid7
from chassis.reads import Reader
from chassis.store import Document, Store
from chassis.work import Work
from customer.commands.customers import definitions, numbers
from customer.commands.imports.jobs import MOST_COLUMNS, Job
from customer.rules import attributes, customers, identifiers, mapping
from customer.store import CUSTOMERS, IMPORTS, REJECTED

Known = dict[str, customer_pb2.Customer]


@dataclass(frozen=True)
class Row:
    """A record of the file on its way: the line it begins with, and what it says or why it is refused.

    Once prepared it has either the new `customer` and the `document` to store, or the `number` of the one it changes;
    once that is found, the customer as it becomes and the fields `changed`.
    """

    line: int
    text: str
    said: mapping.Said | None = None
    refused: Invalid | None = None
    number: str = ""
    customer: customer_pb2.Customer | None = None
    document: Document | None = None
    changed: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """Which of the job's counts the row goes into."""
        if self.refused is not None:
            return "rejected"
        return "created" if not self.number else "updated" if self.changed else "unchanged"


@dataclass(frozen=True)
class Batch:
    """Rows to take in together; where in the file they end, and how many of its lines they are.

    `keys` are those of JSON records met so far, with their targets; "" where a key goes nowhere.
    """

    rows: list[Row]
    end: int
    lines: int
    region: str
    keys: Mapping[str, str] = field(default_factory=dict)
    defined: mapping.Attributes = field(default_factory=dict)


# --- before the transaction ------------------------------------------------------------------------------------------


def prepare(store: Store, job: Job, batch: Batch) -> Batch:
    """Makes a batch ready; this is done while the batch before is being committed."""
    batch = replace(batch, defined=definitions(Reader(store)))
    adds = job.mode != transfer_pb2.IMPORT_MODE_UPDATE
    new = sum(adds and row.said is not None and not row.said.customer.customer_number for row in batch.rows)
    serials, now = iter(range(new) if job.dry_run else numbers.take(store, new)), clock()
    return replace(batch, rows=[_ready(job, batch, row, serials, now) for row in batch.rows])


def _ready(job: Job, batch: Batch, row: Row, serials: Iterator[int], now: datetime) -> Row:
    if row.said is None:
        return row
    try:
        number = _number(job, row.said.customer.customer_number)
        return replace(row, number=number) if number else _new(job, batch, row, row.said, next(serials), now)
    except Invalid as error:
        return replace(row, refused=mapping.by_column(error, row.said.columns))


def _number(job: Job, written: str) -> str:
    """The number of the customer that a row changes; empty where it is a new one's."""
    number = identifiers.normalize_customer_number(written)
    if written and not number:
        raise invalid(mapping.NUMBER, "is no customer number")
    if not number and job.mode == transfer_pb2.IMPORT_MODE_UPDATE:
        raise invalid(mapping.NUMBER, "is missing; this import only changes customers")
    return number or ""


def _new(job: Job, batch: Batch, row: Row, said: mapping.Said, serial: int, now: datetime) -> Row:
    contract.validate(said.customer)
    customer = customers.register(
        said.customer, customer_id=uuid7(now), serial=serial, source=job.channel, now=now, region=batch.region
    )
    attributes.check(customer, batch.defined)
    return replace(row, customer=customer, document=CUSTOMERS.document(customer))


# --- in the transaction ----------------------------------------------------------------------------------------------


def take_batch(work: Work, job: Job, batch: Batch) -> Job:
    """Takes a prepared batch in and moves the job on to its end; raises `Conflict` when somebody else did.

    Customers that rows change are read in the transaction, so it sees what a clerk changed a moment ago, or is done
    again when one does so meanwhile. Rows for the same customer build on each other.
    """
    known = _known(work, batch)
    rows = [_changing(batch, row, known, work.now) for row in batch.rows]
    refused = [_refused(work, job, row, row.refused) for row in rows if row.refused is not None]
    if refused:
        work.put(REJECTED, *refused)
    if not job.dry_run:
        _write(work, rows)
    after = _moved(job, batch, Counter(row.outcome for row in rows), now=work.now)
    # Absent until the first batch, as every field at its default.
    where: Document = {"_id": job.import_id, "status": "RUNNING", "upload_id": job.upload_id}
    where["done_bytes"] = job.done_bytes or None
    work.write(IMPORTS.name, UpdateOne(where, {"$set": _progress(after)}), certain=True)
    return after


def _known(work: Work, batch: Batch) -> Known:
    wanted = sorted({row.number for row in batch.rows if row.number})
    found = work.reader.find(CUSTOMERS, {"customer_number": {"$in": wanted}}) if wanted else []
    return {one.customer_number: one for one in found}


def _changing(batch: Batch, row: Row, known: Known, now: datetime) -> Row:
    if row.said is None or not row.number:
        return row
    try:
        customer, changed = _changed(batch, row.said, known.get(row.number), now)
    except Invalid as error:
        return replace(row, refused=mapping.by_column(error, row.said.columns))
    known[row.number] = customer
    return replace(row, customer=customer, changed=tuple(changed))


def _changed(
    batch: Batch, said: mapping.Said, stored: customer_pb2.Customer | None, now: datetime
) -> tuple[customer_pb2.Customer, list[str]]:
    if stored is None:
        raise invalid(mapping.NUMBER, "belongs to no customer")
    given, mask = mapping.change(stored, said)
    try:
        customer, changed = customers.update(stored, given, mask, now=now, region=batch.region)
    except Conflict as conflict:
        raise invalid(mapping.NUMBER, conflict.message) from conflict
    if changed:
        contract.validate(customer)
        attributes.check(customer, batch.defined, before=stored)
    return customer, changed


def _write(work: Work, rows: list[Row]) -> None:
    for row in rows:
        if row.customer is None or row.refused is not None:
            continue
        if not row.number:
            registered = events_pb2.CustomerRegistered(customer=row.customer)
            work.insert(CUSTOMERS, row.customer, registered, document=row.document)
        elif row.changed:
            event = events_pb2.CustomerUpdated(customer=row.customer)
            event.changed.paths.extend(row.changed)
            work.replace(CUSTOMERS, row.customer, event)


def _refused(work: Work, job: Job, row: Row, why: Invalid) -> Document:
    errors = [{"field": one.field, "reason": one.reason} for one in why.violations]
    found: Document = {"import_id": job.import_id, "line": row.line, "errors": errors, "row": row.text, "at": work.now}
    return found


def _moved(job: Job, batch: Batch, counts: Mapping[str, int], *, now: datetime) -> Job:
    after = Job()
    after.CopyFrom(job)
    after.done_bytes, after.done_lines = batch.end, job.done_lines + batch.lines
    after.rows = job.rows + len(batch.rows)
    for name, count in counts.items():
        setattr(after, name, getattr(job, name) + count)
    after.imported = after.rows - after.rejected
    seconds = max((now - job.start_time.ToDatetime(UTC)).total_seconds(), 0.001)
    after.rows_per_second = after.rows / seconds
    after.remaining_seconds = round((job.size_bytes - batch.end) * seconds / batch.end)
    _tell_keys(after, batch.keys)
    return after


def _tell_keys(job: Job, keys: Mapping[str, str]) -> None:
    for key, target in keys.items():
        if target and job.mapping_guessed and len(job.mapping) < MOST_COLUMNS:
            job.mapping[key] = target
    ignored = {*job.ignored_columns, *(key for key, target in keys.items() if not target)}
    job.ignored_columns[:] = sorted(ignored)[:MOST_COLUMNS]


def _progress(after: Job) -> Document:
    document = IMPORTS.document(after)
    counts = ("rows", "imported", "rejected", "created", "updated", "unchanged")
    names = ("done_bytes", "done_lines", *counts, "rows_per_second", "remaining_seconds", "mapping", "ignored_columns")
    return {name: document[name] for name in names if name in document}
