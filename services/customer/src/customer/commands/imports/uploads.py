"""The file of a job: taken in piece by piece, kept under an id of its upload."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from bson.binary import Binary
from crm.customer.v1 import events_pb2, transfer_pb2

from chassis import contract, idempotency
from chassis.errors import Conflict, invalid
from chassis.events import clock, uuid7
from chassis.reads import Reader
from chassis.rpc import Call
from chassis.store import Session, Store, transact
from customer.commands.imports.jobs import Job
from customer.store import FILES, IMPORTS

Upload = transfer_pb2.UploadImportRequest


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
