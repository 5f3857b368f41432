"""Customers as a file: streamed, masked as the caller may see them, in a form that can be imported again."""

from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any

import orjson
from crm.customer.v1 import customer_pb2, transfer_pb2
from google.api.httpbody_pb2 import HttpBody

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
_ADDRESS = "addresses.postal_address."
_COLUMNS = (
    "customer_number", "kind", "status", "names.full", "names.family", "names.given", "phones.number",
    "phones[1].number", "phones[2].number", "emails.address", "emails[1].address", "documents.kind",
    "documents.number", "documents.region_code", "birthday", "gender", f"{_ADDRESS}address_lines",
    f"{_ADDRESS}locality", f"{_ADDRESS}administrative_area", f"{_ADDRESS}postal_code", f"{_ADDRESS}region_code",
    "interests", "service_numbers", "language_code", "time_zone",
)  # fmt: skip


def export_customers(call: Call, request: transfer_pb2.ExportCustomersRequest) -> Iterator[HttpBody]:
    """Every customer the filter finds, by number; JSON Lines unless CSV is asked for."""
    reader = Reader(call.store)
    csv = request.format == transfer_pb2.FILE_FORMAT_CSV
    columns = [*_COLUMNS, *(f"attributes.{key}" for key in sorted(definitions(reader)))]
    if csv:
        yield HttpBody(content_type=CSV, data=files.csv_line(columns).encode())
    else:
        yield HttpBody(content_type=JSON_LINES)
    for page in _pages(reader, _where(request)):
        for customer in page:
            privacy.mask(customer, call.caller)
        lines = [files.csv_line(_cells(one, columns)).encode() if csv else _json(one) for one in page]
        yield HttpBody(content_type=CSV if csv else JSON_LINES, data=b"".join(lines))


def _where(request: transfer_pb2.ExportCustomersRequest) -> Document:
    where: Document = {}
    if request.kind:
        where["kind"] = codec.enum_name(customer_pb2.CustomerKind.DESCRIPTOR, request.kind)
    changed = {}
    if request.HasField("updated_after"):
        changed["$gte"] = request.updated_after.ToDatetime(UTC)
    if request.HasField("updated_before"):
        changed["$lt"] = request.updated_before.ToDatetime(UTC)
    return where | ({"update_time": changed} if changed else {})


def _pages(reader: Reader, where: Document) -> Iterator[list[customer_pb2.Customer]]:
    after = ""
    while True:
        found = reader.find(CUSTOMERS, where | {"customer_number": {"$gt": after}}, limit=PAGE, order="customer_number")
        if not found:
            return
        after = found[-1].customer_number
        yield found


def _json(customer: customer_pb2.Customer) -> bytes:
    return orjson.dumps(codec.to_json(customer), option=orjson.OPT_APPEND_NEWLINE)


def _cells(customer: customer_pb2.Customer, columns: Iterable[str]) -> Iterator[str]:
    value = codec.to_json(customer)
    for column in columns:
        name, _, key = column.partition(".")
        yield _text(value["attributes"].get(key)) if name == "attributes" else _cell(value, column)


def _cell(value: Any, column: str) -> str:
    if column in ("customer_number", "status"):
        return str(value[column])
    for field, place in mapping.steps(column):
        value = value.get(field.name)
        if field.is_repeated and field.message_type is not None:
            value = value[place] if value and len(value) > place else {}
        if value is None:
            return ""
    return _text(value)


def _text(value: Any) -> str:
    if value is None or value in ("UNSPECIFIED", {}):
        return ""
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
