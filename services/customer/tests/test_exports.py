"""Exports: only what the caller may see, in a form that can be imported again."""

import csv
import io
import json
from collections.abc import Callable
from threading import Event as StopSignal
from typing import Any
from uuid import uuid4

import pytest
from crm.customer.v1 import customer_pb2, transfer_pb2
from google.api.httpbody_pb2 import HttpBody

from chassis import testing
from chassis.errors import Denied
from chassis.events import clock
from chassis.identity import Caller
from chassis.reads import Reader
from chassis.store import Store
from chassis.testing import Client
from customer import jobs
from customer.queries.imports import running

Register = Callable[..., customer_pb2.Customer]


def export(client: Client, form: str, *, caller: Caller | None = None, **fields: Any) -> str:
    request = transfer_pb2.ExportCustomersRequest(format=f"FILE_FORMAT_{form}", **fields)
    token = client.signer.mint(caller or testing.somebody(), clock())
    pieces = client.stub.receive(testing.operation_of(request), request, token=token, seconds=30)
    return b"".join(one.data for one in pieces).decode()


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
def people(register: Register) -> list[customer_pb2.Customer]:
    return [
        register("=HYPERLINK(1)", phones=[{"number": "13800138000"}], interests=["a", "b"]),
        register("张伟", documents=[{"kind": "DOCUMENT_KIND_PASSPORT", "number": "E1234567"}]),
        register("Acme", kind="CUSTOMER_KIND_ORGANIZATION", emails=[{"address": "a@acme.cn"}]),
    ]


def test_json_lines_hold_everything_the_caller_sees(client: Client, people: list[customer_pb2.Customer]) -> None:
    found = [json.loads(line) for line in export(client, "JSON_LINES").splitlines()]
    assert [one["customer_number"] for one in found] == [one.customer_number for one in people]
    assert found[1]["documents"][0]["number"] == "E1234567"


def test_who_may_not_see_personal_data_gets_it_masked(client: Client, people: list[customer_pb2.Customer]) -> None:
    analyst = testing.somebody(sees=frozenset({1, 2}))
    for form in ("JSON_LINES", "CSV"):
        text = export(client, form, caller=analyst)
        assert people[0].customer_number in text
        assert not any(secret in text for secret in ("13800138000", "张伟", "E1234567", "a@acme.cn", "HYPERLINK"))


def test_who_has_no_right_gets_nothing(client: Client, people: list[customer_pb2.Customer]) -> None:
    with pytest.raises(Denied):
        export(client, "CSV", caller=testing.somebody(scopes=frozenset({"customer.read"})))


def test_no_cell_is_a_formula(client: Client, people: list[customer_pb2.Customer]) -> None:
    first = rows(export(client, "CSV"))[0]
    assert first["names.full"] == "'=HYPERLINK(1)"
    assert first["phones.number"] == "'+8613800138000"


def test_a_filter_narrows(client: Client, people: list[customer_pb2.Customer]) -> None:
    found = rows(export(client, "CSV", kind="CUSTOMER_KIND_ORGANIZATION"))
    assert [one["names.full"] for one in found] == ["Acme"]
    nobody = transfer_pb2.ExportCustomersRequest(format="FILE_FORMAT_CSV")
    nobody.updated_before.FromDatetime(people[0].create_time.ToDatetime())
    assert rows(export(client, "CSV", updated_before=nobody.updated_before)) == []


@pytest.mark.parametrize("form", ["CSV", "JSON_LINES"])
def test_what_was_exported_can_be_imported_again(
    client: Client, store: Store, people: list[customer_pb2.Customer], form: str
) -> None:
    file = export(client, form).encode()
    create = transfer_pb2.CreateImportRequest(format=f"FILE_FORMAT_{form}", request_id=str(uuid4()))
    job = client.call(create).job
    pieces = [
        transfer_pb2.UploadImportRequest(import_id=job.import_id, content=HttpBody(data=data)) for data in (file, b"")
    ]
    token = client.signer.mint(testing.somebody(), clock())
    client.stub.send(testing.operation_of(pieces[0]), iter(pieces), token=token, seconds=30)
    jobs.work_off(store, running(Reader(store))[0], StopSignal(), region="CN")
    again = [json.loads(line) for line in export(client, "JSON_LINES").splitlines()]
    own = {"customer_id", "customer_number", "create_time", "update_time", "source"}
    stripped = [{name: value for name, value in one.items() if name not in own} for one in again]
    assert len(stripped) == 6
    assert stripped[:3] == stripped[3:]
