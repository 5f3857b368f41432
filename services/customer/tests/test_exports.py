"""Exports: only what the caller may see, in a form that can be imported again."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
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
from chassis.store import Index, Store
from chassis.testing import Client
from customer import jobs
from customer.commands.customers import numbers
from customer.jobs import reading
from customer.queries import exports
from customer.queries.imports import running

Register = Callable[..., customer_pb2.Customer]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


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


def test_every_filter_narrows(client: Client, store: Store, people: list[customer_pb2.Customer]) -> None:
    gone = people[0]
    archive = customer_pb2.ArchiveCustomerRequest(
        customer_id=gone.customer_id, reason="gone", version=1, request_id=str(uuid4())
    )
    archived = client.call(archive).customer
    imported(client, store, "CSV", "name\nNew\n", caller=testing.somebody(channel="PARTNER"))

    def found(**fields: Any) -> list[str]:
        return [one["names.full"].removeprefix("'") for one in rows(export(client, "CSV", **fields))]

    assert found(status="CUSTOMER_STATUS_ARCHIVED") == ["=HYPERLINK(1)"]
    assert found(status="CUSTOMER_STATUS_ACTIVE") == ["张伟", "Acme", "New"]
    assert found(source="PARTNER") == ["New"]
    assert found(source="PARTNER", kind="CUSTOMER_KIND_ORGANIZATION") == []
    assert found(updated_after=archived.update_time) == ["=HYPERLINK(1)", "New"]
    assert found(updated_after=people[1].update_time, updated_before=archived.update_time) == ["张伟", "Acme"]
    assert found(updated_before=archived.update_time, status="CUSTOMER_STATUS_ACTIVE") == ["张伟", "Acme"]


def test_pages_hold_everybody_once_in_either_order(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PAGE", 3)
    monkeypatch.setattr(reading, "BATCH_ROWS", 5)  # which are changed at the same instant
    file = "name,kind\n" + "".join(f"P{number},{'ORGANIZATION' if number % 9 == 0 else ''}\n" for number in range(17))
    imported(client, store, "CSV", file)
    numbers.take(store, 1000)  # a gap, as restarts leave them
    imported(client, store, "CSV", file)
    everybody = [f"P{number}" for number in range(17)] * 2
    assert [one["names.full"] for one in rows(export(client, "CSV"))] == everybody
    assert sorted(one["names.full"] for one in rows(export(client, "CSV", updated_after=LONG_AGO))) == sorted(everybody)
    some = {"kind": "CUSTOMER_KIND_ORGANIZATION"}
    assert [one["names.full"] for one in rows(export(client, "CSV", **some))] == ["P0", "P9"] * 2
    assert [one["names.full"] for one in rows(export(client, "CSV", updated_after=LONG_AGO, **some))] == [
        "P0",
        "P9",
    ] * 2


@pytest.mark.parametrize("since", [{}, {"updated_after": LONG_AGO}])
def test_an_export_reads_an_index(
    client: Client,
    store: Store,
    people: list[customer_pb2.Customer],
    monkeypatch: pytest.MonkeyPatch,
    since: dict[str, Any],
) -> None:
    monkeypatch.setattr(exports, "PAGE", 2)
    asked = []
    original = Reader.documents

    def watched(self: Reader, collection: Any, where: dict[str, Any], **options: Any) -> Any:
        asked.append((collection.name, where, options))
        return original(self, collection, where, **options)

    monkeypatch.setattr(Reader, "documents", watched)
    export(client, "CSV", status="CUSTOMER_STATUS_ACTIVE", source="WEB", **since)
    index = "update_time_1_customer_number_1" if since else "customer_number_1"
    plans = [
        str(store["customers"].find(where).sort(Index(options["order"]).pairs).limit(options["limit"]).explain())
        for name, where, options in asked
        if name == "customers"
    ]
    assert len(plans) > 4
    assert all(index in plan and "COLLSCAN" not in plan for plan in plans)


# --- and in again ----------------------------------------------------------------------------------------------------


def imported(client: Client, store: Store, form: str, file: str, *, caller: Caller | None = None, **fields: Any) -> Any:
    create = transfer_pb2.CreateImportRequest(format=f"FILE_FORMAT_{form}", request_id=str(uuid4()), **fields)
    job = client.call(create, caller=caller).job
    pieces = [
        transfer_pb2.UploadImportRequest(import_id=job.import_id, content=HttpBody(data=data))
        for data in (file.encode(), b"")
    ]
    token = client.signer.mint(testing.somebody(), clock())
    client.stub.send(testing.operation_of(pieces[0]), iter(pieces), token=token, seconds=30)
    jobs.work_off(store, running(Reader(store))[0], StopSignal(), region="CN")
    return client.call(transfer_pb2.GetImportRequest(import_id=job.import_id)).job


@pytest.mark.parametrize("form", ["CSV", "JSON_LINES"])
def test_what_was_exported_can_be_imported_again(
    client: Client, store: Store, people: list[customer_pb2.Customer], form: str
) -> None:
    assert imported(client, store, form, export(client, form)).created == 3
    again = [json.loads(line) for line in export(client, "JSON_LINES").splitlines()]
    own = {"customer_id", "customer_number", "create_time", "update_time", "source"}
    stripped = [{name: value for name, value in one.items() if name not in own} for one in again]
    assert len(stripped) == 6
    assert stripped[:3] == stripped[3:]


@pytest.fixture
def rich(client: Client, register: Register) -> customer_pb2.Customer:
    """Somebody with as much of everything as CSV has columns for."""
    for key, kind in (("plan", "TEXT"), ("gold", "BOOLEAN"), ("age", "NUMBER"), ("since", "DATE")):
        attribute = customer_pb2.Attribute(key=key, label=key.title(), type=f"ATTRIBUTE_TYPE_{kind}")
        client.call(customer_pb2.DefineAttributeRequest(attribute=attribute, request_id=f"define-{key}"))
    values = customer_pb2.Customer()
    values.attributes["plan"].string_value = "UNSPECIFIED; '=1+1"
    values.attributes["gold"].bool_value, values.attributes["age"].number_value = False, 0
    values.attributes["since"].string_value = "2020-02-29"
    return register(
        "张伟",
        names=[
            {"full": "张伟", "family": "张", "given": "伟", "kind": "NAME_KIND_LEGAL"},
            {"full": "'=David \"W\" Zhang", "family": "UNSPECIFIED", "kind": "NAME_KIND_PREFERRED"},
        ],
        documents=[
            {"kind": "DOCUMENT_KIND_PASSPORT", "number": "E1234567", "region_code": "CN",
             "expiry_date": {"year": 2030, "month": 1, "day": 2}},
            {"kind": "DOCUMENT_KIND_DRIVING_LICENCE", "number": "110105199001010011"},
            {"kind": "DOCUMENT_KIND_TAX_NUMBER", "number": "91110000000000000A"},
        ],
        phones=[{"number": f"1380013800{place}", "kind": place, "preferred": place == 1} for place in range(5)],
        emails=[{"address": f"a{place}@b.cn", "kind": place, "preferred": place == 2} for place in range(3)],
        addresses=[
            {"kind": place, "postal_address": {
                "region_code": "CN", "locality": "北京市", "address_lines": [f"{place} 号; 楼 2", "3 层"],
                "recipients": ["王"], "organization": "Acme"}}
            for place in range(3)
        ],
        birthday={"year": 1990, "month": 2, "day": 28}, gender="GENDER_FEMALE", interests=["chess", "a; b"],
        service_numbers=[f"line{place}" for place in range(10)], language_code="zh-Hans-CN", time_zone="Asia/Shanghai",
        attributes=dict(values.attributes),
    )  # fmt: skip


@pytest.mark.parametrize("form", ["CSV", "JSON_LINES"])
def test_an_export_imported_as_an_update_changes_nothing(
    client: Client, store: Store, people: list[customer_pb2.Customer], rich: customer_pb2.Customer, form: str
) -> None:
    before = export(client, "JSON_LINES")
    job = imported(client, store, form, export(client, form), mode="IMPORT_MODE_UPDATE")
    assert (job.unchanged, job.updated, job.rejected) == (4, 0, 0)
    assert export(client, "JSON_LINES") == before


def test_csv_holds_all_of_a_rich_customer(client: Client, store: Store, rich: customer_pb2.Customer) -> None:
    (row,) = rows(export(client, "CSV"))
    assert list(row)[-1] == "left_out"
    assert row["left_out"] == ""
    assert imported(client, store, "CSV", export(client, "CSV")).created == 1
    one, other = (json.loads(line) for line in export(client, "JSON_LINES").splitlines())
    own = {"customer_id", "customer_number", "create_time", "update_time", "source"}
    assert {name: other[name] for name in other if name not in own} == {
        name: one[name] for name in one if name not in own
    }


def test_what_csv_has_no_column_for_is_counted_and_stays_when_the_row_comes_back(
    client: Client, store: Store, register: Register
) -> None:
    one = register(
        "Ann",
        phones=[{"number": f"1380013800{place}"} for place in range(7)],
        documents=[{"kind": "DOCUMENT_KIND_PASSPORT", "number": f"E123456{place}"} for place in range(4)],
    )
    file = export(client, "CSV")
    assert rows(file)[0]["left_out"] == "documents 1; phones 2"
    assert imported(client, store, "CSV", file, mode="IMPORT_MODE_UPDATE").unchanged == 1
    edited = file.replace("+8613800138001", "+8613900139001").replace("'+8613800138002", "")
    assert imported(client, store, "CSV", edited, mode="IMPORT_MODE_UPDATE").updated == 1
    after = client.call(customer_pb2.GetCustomerRequest(customer_id=one.customer_id)).customer
    assert [phone.number[-5:] for phone in after.phones] == ["38000", "39001", "38003", "38004", "38005", "38006"]
    assert after.documents == one.documents


def test_csv_has_a_column_for_every_value_of_a_customer() -> None:
    assert {"names[1].full", "documents[2].expiry_date", "phones[4].preferred", "emails[2].address"} <= set(
        exports._columns()
    )
    assert "addresses[2].postal_address.address_lines" in exports._columns()
    assert {one.name for one in customer_pb2.Customer.DESCRIPTOR.fields} - {"attributes"} == {
        column.partition(".")[0].partition("[")[0] for column in exports._columns()
    }
