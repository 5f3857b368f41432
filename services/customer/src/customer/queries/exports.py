"""Customers as a file: streamed, masked as the caller may see them, in a form that can be imported again."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import orjson
from crm.customer.v1 import customer_pb2, transfer_pb2
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from chassis import codec, privacy
from chassis.reads import Reader
from chassis.rpc import Call
from chassis.store import Document
from customer.commands.customers import definitions
from customer.queries.imports import CSV
from customer.rules import files, mapping
from customer.store import CUSTOMERS

PAGE = 500
JSON_LINES = "application/x-ndjson"
# How many items of a list CSV has columns for; what is beyond is counted in the last column.
ITEMS = {"names": 2, "documents": 3, "phones": 5, "emails": 3, "addresses": 3}
_SINGLE = ("google.type.Date", "google.protobuf.Timestamp")
_BY_TIME = "update_time, customer_number"
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
Pages = Iterator[list[customer_pb2.Customer]]


def export_customers(call: Call, request: transfer_pb2.ExportCustomersRequest) -> Iterator[HttpBody]:
    """Every customer the filter finds; JSON Lines unless CSV is asked for.

    By number, or by the time of the last change where the filter asks for one.
    """
    reader = Reader(call.store)
    csv = request.format == transfer_pb2.FILE_FORMAT_CSV
    columns = [*_columns(), *(f"attributes.{key}" for key in sorted(definitions(reader))), mapping.LEFT_OUT]
    if csv:
        yield HttpBody(content_type=CSV, data=files.csv_line(columns).encode())
    else:
        yield HttpBody(content_type=JSON_LINES)
    for page in pages(reader, request):
        for customer in page:
            privacy.mask(customer, call.caller)
        lines = [_csv(one, columns) if csv else _json(one) for one in page]
        yield HttpBody(content_type=CSV if csv else JSON_LINES, data=b"".join(lines))


# --- which -----------------------------------------------------------------------------------------------------------


def pages(reader: Reader, request: transfer_pb2.ExportCustomersRequest) -> Pages:
    """The customers the filter finds, by at most `PAGE`."""
    # The embedded store reads no index when another condition stands beside the range.
    where = {} if reader.store.dialect == "secantus" else _where(request)
    for page in _walk(reader, where, request):
        wanted = [one for one in page if _wanted(one, request)]
        if wanted:
            yield wanted


def _where(request: transfer_pb2.ExportCustomersRequest) -> Document:
    where: Document = {"source": request.source} if request.source else {}
    if request.kind:
        where["kind"] = codec.enum_name(customer_pb2.CustomerKind.DESCRIPTOR, request.kind)
    if request.status:
        where["status"] = codec.enum_name(customer_pb2.CustomerStatus.DESCRIPTOR, request.status)
    return where


def _wanted(customer: customer_pb2.Customer, request: transfer_pb2.ExportCustomersRequest) -> bool:
    return all(getattr(request, name) in (0, "", getattr(customer, name)) for name in ("kind", "status", "source"))


def _walk(reader: Reader, where: Document, request: transfer_pb2.ExportCustomersRequest) -> Pages:
    if not request.HasField("updated_after") and not request.HasField("updated_before"):
        return _by_number(reader, where)
    ends = request.updated_before.ToDatetime(UTC) if request.HasField("updated_before") else _NEVER
    return _by_time(reader, where, request.updated_after.ToDatetime(UTC), ends)


def _by_number(reader: Reader, where: Document) -> Pages:
    after = ""
    while page := _following(reader, where, after):
        after = page[-1].customer_number  # before it is masked
        yield page


def _following(reader: Reader, where: Document, after: str) -> list[customer_pb2.Customer]:
    # Numbers have few gaps, so the next `PAGE` of them are a page; of an open range the embedded store reads all.
    near = {"$gt": after, "$lt": f"C{int(after[1:10] or 0) + PAGE:09d}"}
    ranges = ({"customer_number": near}, {"customer_number": {"$gt": after}})
    return _first(reader, ranges, where, order="customer_number")


def _by_time(reader: Reader, where: Document, starts: datetime, ends: datetime) -> Pages:
    page = _first(reader, [{"update_time": {"$gte": starts, "$lt": ends}}], where, order=_BY_TIME)
    while page:
        ranges = _later(page, ends)  # before it is masked
        yield page
        page = _first(reader, ranges, where, order=_BY_TIME)


def _later(page: list[customer_pb2.Customer], ends: datetime) -> list[Document]:
    """Where the customers after a page are: changed at its last instant, soon after, or at any time after.

    Each is one range of the index; "later, or at once with a higher number" is none to any store.
    """
    first, last = (one.update_time.ToDatetime(UTC) for one in (page[0], page[-1]))
    soon = min(ends, last + max(last - first, timedelta(seconds=1)))
    return [
        {"update_time": last, "customer_number": {"$gt": page[-1].customer_number}},
        {"update_time": {"$gt": last, "$lt": soon}},
        {"update_time": {"$gt": last, "$lt": ends}},
    ]


def _first(reader: Reader, ranges: Iterable[Document], where: Document, *, order: str) -> list[customer_pb2.Customer]:
    """A page of the first range that holds anybody."""
    found = (reader.find(CUSTOMERS, {**one, **where}, limit=PAGE, order=order) for one in ranges)
    return next(filter(None, found), [])


# --- how they are written --------------------------------------------------------------------------------------------


def _json(customer: customer_pb2.Customer) -> bytes:
    return orjson.dumps(codec.to_json(customer), option=orjson.OPT_APPEND_NEWLINE)


def _csv(customer: customer_pb2.Customer, columns: list[str]) -> bytes:
    cells = dict(_cells(customer))
    cells[mapping.LEFT_OUT] = _left_out(customer)
    return files.csv_line([cells.get(column, "") for column in columns]).encode()


def _left_out(customer: customer_pb2.Customer) -> str:
    beyond = {field.name: len(value) - _most(field) for field, value in customer.ListFields() if _is_list(field)}
    return "; ".join(f"{name} {count}" for name, count in beyond.items() if count > 0)


def _cells(message: Message, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value that is set, by its path."""
    for field, value in message.ListFields():
        here = f"{path}{field.name}"
        if field.name == "attributes":
            yield from ((f"{here}.{key}", _text(codec.to_json(one))) for key, one in value.items())
        elif field.message_type is None:
            yield here, _scalar(field, value)
        elif field.message_type.full_name in _SINGLE:
            yield here, str(codec.to_json(value))
        elif field.is_repeated:
            for place, one in enumerate(value):
                yield from _cells(one, f"{path}{_item(field, place)}.")
        else:
            yield from _cells(value, f"{here}.")


def _scalar(field: FieldDescriptor, value: Any) -> str:
    if field.is_repeated:
        return mapping.one_cell(list(value))
    return _text(value if field.enum_type is None else codec.enum_names(field.enum_type).get(value, value))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def _columns() -> list[str]:
    """The path of every value CSV has a column for, but for attributes."""
    return list(_paths(customer_pb2.Customer.DESCRIPTOR))


def _paths(descriptor: Any, path: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        if field.name == "attributes":
            continue
        if field.message_type is None or field.message_type.full_name in _SINGLE:
            yield f"{path}{field.name}"
            continue
        for place in range(_most(field) if _is_list(field) else 1):
            yield from _paths(field.message_type, f"{path}{_item(field, place)}.")


def _is_list(field: FieldDescriptor) -> bool:
    return field.is_repeated and field.message_type is not None and field.name != "attributes"


def _most(field: FieldDescriptor) -> int:
    return ITEMS.get(field.name, 3)


def _item(field: FieldDescriptor, place: int) -> str:
    return f"{field.name}[{place}]" if place else field.name
