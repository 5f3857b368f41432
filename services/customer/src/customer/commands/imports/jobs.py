"""The job itself: made, told how its file is read, cancelled, ended."""

from collections.abc import Iterable, Mapping

from crm.customer.v1 import customer_pb2, events_pb2, transfer_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from pymongo import UpdateOne

from chassis import privacy
from chassis.errors import Conflict
from chassis.work import Work
from customer.commands.customers import definitions
from customer.rules import customers, mapping
from customer.store import IMPORTS

Job = transfer_pb2.ImportJob
MOST_COLUMNS = 200  # that a job tells of
_UPDATING = (transfer_pb2.IMPORT_MODE_UPDATE, transfer_pb2.IMPORT_MODE_UPSERT)


def updates(job: Job | transfer_pb2.CreateImportRequest) -> bool:
    """Whether rows of the job can change customers there are."""
    return job.mode in _UPDATING


def create_import(work: Work, request: transfer_pb2.CreateImportRequest) -> transfer_pb2.CreateImportResponse:
    """Makes a job that waits for its file; who sees values only masked may not change customers with it."""
    mapping.check(request.mapping, definitions(work.reader), updating=updates(request))
    if updates(request):
        every = FieldMask(paths=sorted(customers.CHANGEABLE))
        privacy.may_change(customer_pb2.UpdateCustomerRequest(update_mask=every), work.caller)
    job = Job(
        import_id=work.new_id(),
        version=1,
        format=request.format,
        mapping=request.mapping,
        mapping_guessed=not request.mapping,
        mode=request.mode or transfer_pb2.IMPORT_MODE_CREATE,
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


def describe_mapping(work: Work, job: Job, how: Mapping[str, str], ignored: Iterable[str]) -> Job:
    """Writes down how the columns are read, so that a worker that takes over reads them the same way."""
    after = Job()
    after.CopyFrom(job)
    after.ClearField("mapping")
    after.mapping.update(how)
    after.ignored_columns[:] = sorted(ignored)[:MOST_COLUMNS]
    if after != job:
        document = IMPORTS.document(after)
        change = {name: document[name] for name in ("mapping", "ignored_columns") if name in document}
        work.write(IMPORTS.name, UpdateOne({"_id": job.import_id, "status": "RUNNING"}, {"$set": change}))
    return after
