"""Import jobs: made, filled with a file, worked off batch by batch, ended.

A batch is one transaction: its customers with their events, its refused rows, and how far the file is done. So a crash
between two batches loses nothing, and one inside a batch undoes it; whoever goes on begins where the last commit ended.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bson.binary import Binary
from crm.customer.v1 import customer_pb2, events_pb2, transfer_pb2
from pymongo import UpdateOne

from chassis import contract, idempotency
from chassis.errors import Conflict, Invalid, invalid
from chassis.events import clock, uuid7
from chassis.reads import Reader
from chassis.rpc import Call
from chassis.store import Document, Session, Store, transact
from chassis.work import Work
from customer.commands.customers import definitions, numbers
from customer.rules import attributes, customers, mapping
from customer.store import CUSTOMERS, FILES, IMPORTS, REJECTED

Job = transfer_pb2.ImportJob
Upload = transfer_pb2.UploadImportRequest


@dataclass(frozen=True)
class Row:
    """A record of the file on its way: the line it begins with, and the customer it describes or why it does not.

    `document` is the customer as it will be stored, once it is prepared.
    """

    line: int
    text: str
    customer: customer_pb2.Customer | None = None
    refused: Invalid | None = None
    document: Document | None = None


@dataclass(frozen=True)
class Batch:
    """Rows to take in together; where in the file they end, and how many of its lines they are."""

    rows: list[Row]
    end: int
    lines: int


def create_import(work: Work, request: transfer_pb2.CreateImportRequest) -> transfer_pb2.CreateImportResponse:
    """Makes a job that waits for its file."""
    mapping.check(request.mapping, definitions(work.reader))
    job = Job(
        import_id=work.new_id(),
        version=1,
        format=request.format,
        mapping=request.mapping,
        dry_run=request.dry_run,
        status=transfer_pb2.IMPORT_STATUS_CREATED,
        owner=work.caller.subject,
        channel=work.caller.channel,
    )
    job.create_time.FromDatetime(work.now)
    work.insert(IMPORTS, job, events_pb2.ImportCreated(job=job))
    return transfer_pb2.CreateImportResponse(job=job)


def cancel_import(work: Work, request: transfer_pb2.CancelImportRequest) -> transfer_pb2.CancelImportResponse:
    """Stops a job that has not ended."""
    job = finished(work, work.get(IMPORTS, request.import_id), transfer_pb2.IMPORT_STATUS_CANCELLED)
    return transfer_pb2.CancelImportResponse(job=job)


def finished(work: Work, stored: Job, status: transfer_pb2.ImportStatus, *, error: str = "") -> Job:
    """Ends a job; raises `Conflict` when it has ended before."""
    if stored.status not in (transfer_pb2.IMPORT_STATUS_CREATED, transfer_pb2.IMPORT_STATUS_RUNNING):
        raise Conflict("this import has ended", reason="ENDED")
    job = Job()
    job.CopyFrom(stored)
    job.status, job.error, job.remaining_seconds = status, error, 0
    job.version += 1
    job.finish_time.FromDatetime(work.now)
    work.replace(IMPORTS, job, events_pb2.ImportFinished(job=job))
    return job


# --- the file --------------------------------------------------------------------------------------------------------


def upload_import(
    call: Call, requests: Iterator[transfer_pb2.UploadImportRequest]
) -> transfer_pb2.UploadImportResponse:
    """Takes the file in and starts the job; the same file once more changes nothing.

    Pieces are kept under an id of this upload, so one that broke off never mixes with the next.
    """
    first = next(requests, None)
    if first is None:
        raise invalid("content", "there is no file")
    contract.validate(first)
    stored = Reader(call.store).get(IMPORTS, first.import_id)
    if stored.status == transfer_pb2.IMPORT_STATUS_CANCELLED:
        raise Conflict("this import was cancelled", reason="ENDED")
    upload, digest = uuid7(clock()), hashlib.sha256()
    size = _keep(call.store, first.import_id, upload, _pieces(first, requests), digest)
    if size == 0:
        raise invalid("content", "the file is empty")
    job = _started(call, first.import_id, upload=upload, size=size, sha256=digest.hexdigest())
    _forget(call.store, job)
    return transfer_pb2.UploadImportResponse(job=job)


def _pieces(first: Upload, rest: Iterable[Upload]) -> Iterator[bytes]:
    piece = first.content.data
    yield piece
    for request in rest:
        if request.import_id not in ("", first.import_id):
            raise invalid("import_id", "changed within the upload")
        piece = request.content.data
        yield piece
    if piece:
        # A stream that was broken off can look like one that came to its end; a piece without data is the end.
        raise invalid("content", "broke off before its end")


def _keep(store: Store, import_id: str, upload: str, pieces: Iterable[bytes], digest: Any) -> int:
    offset = 0
    for piece in filter(None, pieces):
        digest.update(piece)
        store[FILES].insert_one(
            {"import_id": import_id, "upload_id": upload, "offset": offset, "data": Binary(piece), "at": clock()}
        )
        offset += len(piece)
    return offset


def _started(call: Call, import_id: str, *, upload: str, size: int, sha256: str) -> Job:
    def body(session: Session) -> Job:
        work = idempotency.begin(call.store, session, call.caller, source=call.source, operation=call.operation.name)
        stored = work.get(IMPORTS, import_id)
        if stored.sha256 == sha256:
            return stored
        if stored.status != transfer_pb2.IMPORT_STATUS_CREATED:
            raise Conflict("this import has its file already", reason="ALREADY_UPLOADED")
        job = Job()
        job.CopyFrom(stored)
        job.status, job.upload_id, job.sha256, job.size_bytes = (
            transfer_pb2.IMPORT_STATUS_RUNNING, upload, sha256, size,
        )  # fmt: skip
        job.version += 1
        job.start_time.FromDatetime(work.now)
        work.replace(IMPORTS, job, events_pb2.ImportStarted(job=job))
        work.flush()
        return job

    return transact(call.store, body)


def _forget(store: Store, job: Job) -> None:
    """Removes the pieces of uploads that broke off or came twice."""
    store[FILES].delete_many({"import_id": job.import_id, "upload_id": {"$ne": job.upload_id}})


# --- a batch ---------------------------------------------------------------------------------------------------------


def prepare(store: Store, job: Job, rows: list[Row], *, how: mapping.Plan, end: int, lines: int, region: str) -> Batch:
    """Makes a batch of rows ready to be inserted; this is done while the batch before is being committed."""
    defined = definitions(Reader(store))
    serials = range(len(rows)) if job.dry_run else numbers.take(store, len(rows))
    ready = partial(_ready, job, how=how, defined=defined, now=clock(), region=region)
    return Batch([ready(row, serial) for row, serial in zip(rows, serials, strict=True)], end, lines)


def _ready(
    job: Job, row: Row, serial: int, *, how: mapping.Plan, defined: mapping.Attributes, now: datetime, region: str
) -> Row:
    if row.customer is None:
        return row
    try:
        contract.validate(row.customer)
        customer = customers.register(
            row.customer, customer_id=uuid7(now), serial=serial, source=job.channel, now=now, region=region
        )
        attributes.check(customer, defined)
    except Invalid as error:
        return Row(row.line, row.text, refused=mapping.by_column(error, how))
    return Row(row.line, row.text, customer=customer, document=CUSTOMERS.document(customer))


def take_batch(work: Work, job: Job, batch: Batch) -> Job:
    """Inserts a prepared batch and moves the job on to its end; raises `Conflict` when somebody else did."""
    for row in batch.rows:
        if row.customer is not None and not job.dry_run:
            event = events_pb2.CustomerRegistered(customer=row.customer)
            work.insert(CUSTOMERS, row.customer, event, document=row.document)
    refused = [_refused(work, job, row, row.refused) for row in batch.rows if row.refused is not None]
    if refused:
        work.put(REJECTED, *refused)
    after = _moved(job, batch, refused=len(refused), now=work.now)
    # Absent until the first batch, as every field at its default.
    where: Document = {"_id": job.import_id, "status": "RUNNING", "upload_id": job.upload_id}
    where["done_bytes"] = job.done_bytes or None
    work.write(IMPORTS.name, UpdateOne(where, {"$set": _progress(after)}), certain=True)
    return after


def _refused(work: Work, job: Job, row: Row, why: Invalid) -> Document:
    errors = [{"field": one.field, "reason": one.reason} for one in why.violations]
    found: Document = {"import_id": job.import_id, "line": row.line, "errors": errors, "row": row.text, "at": work.now}
    return found


def _moved(job: Job, batch: Batch, *, refused: int, now: datetime) -> Job:
    after = Job()
    after.CopyFrom(job)
    after.done_bytes, after.done_lines = batch.end, job.done_lines + batch.lines
    after.rows, after.rejected = job.rows + len(batch.rows), job.rejected + refused
    after.imported = after.rows - after.rejected
    seconds = max((now - job.start_time.ToDatetime(UTC)).total_seconds(), 0.001)
    after.rows_per_second = after.rows / seconds
    after.remaining_seconds = round((job.size_bytes - batch.end) * seconds / batch.end)
    return after


def _progress(after: Job) -> Document:
    document = IMPORTS.document(after)
    names = ("done_bytes", "done_lines", "rows", "imported", "rejected", "rows_per_second", "remaining_seconds")
    return {name: document[name] for name in names if name in document}


def describe_mapping(work: Work, job: Job, how: Mapping[str, str], ignored: Iterable[str]) -> Job:
    """Writes down how the columns are read, so that a worker that takes over reads them the same way."""
    after = Job()
    after.CopyFrom(job)
    after.ClearField("mapping")
    after.mapping.update(how)
    after.ignored_columns[:] = sorted(ignored)
    document = IMPORTS.document(after)
    change = {name: document[name] for name in ("mapping", "ignored_columns") if name in document}
    if change:
        work.write(IMPORTS.name, UpdateOne({"_id": job.import_id, "status": "RUNNING"}, {"$set": change}))
    return after
