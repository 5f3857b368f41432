"""Reading import jobs, their files and the rows that were refused."""

from collections.abc import Iterator

from crm.customer.v1 import transfer_pb2
from google.api.httpbody_pb2 import HttpBody

from chassis.reads import Reader
from chassis.store import Store
from customer.rules import files
from customer.store import FILES, IMPORTS, REJECTED

CSV = "text/csv; charset=utf-8"
PIECE_ROWS = 500
LARGEST_PIECE = 4 * 1024 * 1024  # what one message of an upload can hold


def get_import(reader: Reader, request: transfer_pb2.GetImportRequest) -> transfer_pb2.GetImportResponse:
    """One job with its progress."""
    return transfer_pb2.GetImportResponse(job=reader.get(IMPORTS, request.import_id))


def list_imports(reader: Reader, request: transfer_pb2.ListImportsRequest) -> transfer_pb2.ListImportsResponse:
    """A page of jobs, newest first."""
    jobs, token = reader.page(IMPORTS, {}, by="-_position", size=request.page_size, token=request.page_token)
    return transfer_pb2.ListImportsResponse(jobs=jobs, next_page_token=token)


def running(reader: Reader) -> list[transfer_pb2.ImportJob]:
    """The jobs whose files are being worked off."""
    return reader.find(IMPORTS, {"status": "RUNNING"})


def pieces(store: Store, job: transfer_pb2.ImportJob, start: int) -> Iterator[bytes]:
    """The bytes of a job's file from `start` on."""
    where = {"import_id": job.import_id, "upload_id": job.upload_id, "offset": {"$gt": start - LARGEST_PIECE}}
    for piece in store[FILES].find(where).sort([("import_id", 1), ("upload_id", 1), ("offset", 1)]).batch_size(4):
        data = bytes(piece["data"])[max(0, start - piece["offset"]) :]
        if data:
            yield data


def download_rejected_rows(reader: Reader, request: transfer_pb2.DownloadRejectedRowsRequest) -> Iterator[HttpBody]:
    """The refused rows as CSV, a line for each reason: line, field, reason, and the row as it came."""
    reader.get(IMPORTS, request.import_id)
    lines = [files.csv_line(("line", "field", "reason", "row"))]
    for one in reader.store[REJECTED].find({"import_id": request.import_id}).sort([("import_id", 1), ("line", 1)]):
        lines += (files.csv_line((str(one["line"]), e["field"], e["reason"], one["row"])) for e in one["errors"])
        if len(lines) >= PIECE_ROWS:
            yield HttpBody(content_type=CSV, data="".join(lines).encode())
            lines = []
    yield HttpBody(content_type=CSV, data="".join(lines).encode())
