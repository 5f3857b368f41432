"""Imports that change customers: by the number a row carries, field by field, in file order, beside everybody else."""

import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from crm.customer.v1 import customer_pb2, transfer_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from chassis import testing
from chassis.errors import Conflict, Denied, Invalid
from chassis.store import Store
from chassis.testing import Client
from customer.jobs import reading
from customer.rules import customers
from customer.store import CUSTOMERS

Register = Callable[..., customer_pb2.Customer]
UPDATE, UPSERT = "IMPORT_MODE_UPDATE", "IMPORT_MODE_UPSERT"


def counts(job: Any) -> tuple[int, int, int, int]:
    assert job.status == transfer_pb2.IMPORT_STATUS_COMPLETED, job.error
    assert job.imported == job.created + job.updated + job.unchanged == job.rows - job.rejected
    return job.created, job.updated, job.unchanged, job.rejected


def get(client: Client, one: customer_pb2.Customer) -> customer_pb2.Customer:
    return client.call(customer_pb2.GetCustomerRequest(customer_id=one.customer_id)).customer


def archive(client: Client, one: customer_pb2.Customer) -> None:
    request = customer_pb2.ArchiveCustomerRequest(
        customer_id=one.customer_id, reason="gone", version=one.version, request_id=str(uuid4())
    )
    client.call(request)


def updates(store: Store) -> list[tuple[str, int, list[str]]]:
    found = [one for one in testing.published(store) if one.type.endswith("CustomerUpdated")]
    return sorted((one.aggregate_id, one.seq, list(one.message().changed.paths)) for one in found)


def test_a_row_changes_the_customer_whose_number_it_carries(
    loader: Any, client: Client, store: Store, register: Register
) -> None:
    one = register("张伟", gender="GENDER_MALE", interests=["chess"], phones=[{"number": "13800138000"}, {"number": "13900139000"}])  # noqa: E501  # fmt: skip
    number = one.customer_number.removeprefix("C")  # as some write it
    job = loader.imported(f"客户编号,手机,兴趣,性别\n{number},13700137000,,\n", mode=UPDATE)
    assert counts(job) == (0, 1, 0, 0)
    after = get(client, one)
    assert (after.names, after.gender, after.interests) == (one.names, one.gender, one.interests)
    assert [phone.number for phone in after.phones] == ["+8613700137000"]
    assert after.version == 2
    assert updates(store) == [(one.customer_id, 2, ["phones"])]


def test_a_row_that_says_nothing_new_makes_no_event(
    loader: Any, client: Client, store: Store, register: Register
) -> None:
    one = register("Ann", phones=[{"number": "13800138000"}])
    job = loader.imported(f"customer_number,name,phone\n{one.customer_number},Ann,138 0013 8000\n", mode=UPDATE)
    assert counts(job) == (0, 0, 1, 0)
    assert get(client, one) == one
    assert updates(store) == []


def test_rows_for_nobody_are_refused_naming_the_column(loader: Any, client: Client, register: Register) -> None:
    gone, other = register("Gone"), register("Other")
    archive(client, gone)
    rows = ["", "C9999999999", "C123", gone.customer_number, other.customer_number]
    job = loader.imported("No,name\n" + "".join(f"{one},New\n" for one in rows), mode=UPDATE,
                          mapping={"No": "customer_number", "name": "names.full"})  # fmt: skip
    assert counts(job) == (0, 1, 0, 4)
    assert [line.split(",")[:3] for line in loader.refused(job)] == [
        ["2", "No", "is missing; this import only changes customers"],
        ["3", "No", "belongs to no customer"],
        ["4", "No", "is no customer number"],
        ["5", "No", "this customer's record is archived and takes no more changes"],
    ]
    assert loader.names() == ["Gone", "New"]


def test_what_cannot_be_is_refused_naming_its_column(loader: Any, client: Client, register: Register) -> None:
    one = register("Ann", phones=[{"number": "13800138000"}])
    job = loader.imported(
        f"customer_number,phone,kind,生日\n{one.customer_number},12,,\n{one.customer_number},,ORGANIZATION,\n"
        f"{one.customer_number},,,2999-01-01\n",
        mode=UPDATE,
    )
    assert [line.split(",")[1] for line in loader.refused(job)] == ["phone", "kind", "生日"]
    assert get(client, one) == one


def test_upsert_changes_whom_it_knows_and_adds_the_others(loader: Any, client: Client, register: Register) -> None:
    one = register("Ann")
    data = f"customer_number,name,phone\n{one.customer_number},,13800138000\n,李娜,13900139000\nC9999999999,Nobody,\n"
    job = loader.imported(data, mode=UPSERT)
    assert counts(job) == (1, 1, 0, 1)
    assert loader.names() == ["Ann", "李娜"]
    assert [phone.number for phone in get(client, one).phones] == ["+8613800138000"]


def test_create_makes_everybody_new_whatever_their_number(loader: Any, register: Register) -> None:
    one = register("Ann")
    job = loader.imported(f"customer_number,name\n{one.customer_number},Ann\n")
    assert counts(job) == (1, 0, 0, 0)
    assert list(job.ignored_columns) == ["customer_number"]
    assert loader.names() == ["Ann", "Ann"]


def test_rows_for_the_same_customer_take_effect_in_file_order(
    loader: Any, client: Client, store: Store, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 2)
    one = register("Ann")
    rows = ["13800138001,", ",chess", "13800138003,", "13800138004,", ",go"]
    data = "".join(f"{one.customer_number},{row}\n" for row in rows)
    assert counts(loader.imported(f"customer_number,phone,interests\n{data}", mode=UPDATE)) == (0, 5, 0, 0)
    after = get(client, one)
    assert ([phone.number for phone in after.phones], after.interests) == (["+8613800138004"], ["go"])
    changed = ["phones", "interests", "phones", "phones", "interests"]
    assert updates(store) == [(one.customer_id, seq, [name]) for seq, name in enumerate(changed, 2)]


def test_json_lines_change_the_fields_they_hold(loader: Any, client: Client, register: Register) -> None:
    one = register("Ann", interests=["chess"], emails=[{"address": "a@b.cn"}])
    records = [
        f'{{"customer_number": "{one.customer_number}", "emails": [{{"address": "c@d.cn"}}], "interests": []}}',
        f'{{"customer_number": "{one.customer_number}", "生日": "1990-02-28", "phones": null}}',
    ]
    assert counts(loader.imported("\n".join(records), "JSON_LINES", mode=UPDATE)) == (0, 2, 0, 0)
    after = get(client, one)
    assert ([mail.address for mail in after.emails], after.interests) == (["c@d.cn"], ["chess"])
    assert (after.birthday.year, after.names[0].full) == (1990, "Ann")


def test_one_attribute_is_changed_and_the_others_stay(loader: Any, client: Client, register: Register) -> None:
    for name in ("plan", "tier"):
        attribute = customer_pb2.Attribute(key=name, label=name, type="ATTRIBUTE_TYPE_TEXT")
        client.call(customer_pb2.DefineAttributeRequest(attribute=attribute, request_id=f"define-{name}"))
    holder = customer_pb2.Customer()
    holder.attributes["plan"].string_value, holder.attributes["tier"].string_value = "Gold", "A"
    one = register("Ann", attributes=dict(holder.attributes))
    job = loader.imported(f"customer_number,plan\n{one.customer_number},Tin\n", mode=UPDATE)
    assert counts(job) == (0, 1, 0, 0)
    assert {key: value.string_value for key, value in get(client, one).attributes.items()} == {"plan": "Tin", "tier": "A"}  # noqa: E501  # fmt: skip


def test_values_left_out_of_a_row_stay(loader: Any, client: Client, register: Register) -> None:
    one = register("Ann", phones=[{"number": f"1380013800{place}"} for place in range(3)])
    for left_out in ("phones 1", "phones 0", "cats 1"):
        data = f"customer_number,phone,phones[1].number,left_out\n{one.customer_number},13800138009,,{left_out}\n"
        job = loader.imported(data, mode=UPDATE)
        assert job.rejected == (left_out != "phones 1")
    assert [phone.number[-1] for phone in get(client, one).phones] == ["9", "2"]


@pytest.mark.parametrize(
    ("mode", "header", "error"),
    [
        (UPDATE, "name", "no column holds the customer number"),
        (UPSERT, "phone", "no column holds a name"),
        (UPSERT, "phone,customer_number", ""),
        (UPDATE, "customer_number,phone", ""),
    ],
)
def test_a_file_needs_what_its_mode_needs(loader: Any, mode: str, header: str, error: str) -> None:
    job = loader.imported(f"{header}\n", mode=mode)
    assert error in job.error
    assert job.status == (transfer_pb2.IMPORT_STATUS_FAILED if error else transfer_pb2.IMPORT_STATUS_COMPLETED)


@pytest.mark.parametrize("mode", [UPDATE, UPSERT])
def test_a_dry_run_counts_and_changes_nothing(
    loader: Any, client: Client, store: Store, register: Register, mode: str
) -> None:
    one, two = register("Ann"), register("Bob")
    rows = [f"{one.customer_number},Anna", f"{two.customer_number},Bob", "C9999999999,X", ",New"]
    job = loader.imported("customer_number,name\n" + "\n".join(rows), mode=mode, dry_run=True)
    assert counts(job) == ((0, 1, 1, 2) if mode == UPDATE else (1, 1, 1, 1))
    assert loader.names() == ["Ann", "Bob"]
    assert updates(store) == []


def test_who_sees_only_masks_may_not_write_them_back(loader: Any) -> None:
    clerk = testing.somebody(sees=frozenset({1, 2, 3}))
    with pytest.raises(Denied, match="you do not see it in clear"):
        loader.create(mode=UPDATE, caller=clerk)
    assert loader.create(caller=clerk).mode == transfer_pb2.IMPORT_MODE_CREATE


def test_a_mode_must_be_one_there_is(loader: Any) -> None:
    with pytest.raises(Invalid, match="mode"):
        loader.create(mode=99)


def said_by_clerk(client: Client, one: customer_pb2.Customer, interest: str) -> None:
    one.interests[:] = [interest]
    mask = FieldMask(paths=["interests"])
    request = customer_pb2.UpdateCustomerRequest(
        customer=one, update_mask=mask, version=one.version, request_id=str(uuid4())
    )
    client.call(request)


def test_a_batch_is_done_again_when_a_clerk_was_faster(
    loader: Any, client: Client, store: Store, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, decided = register("Ann"), list[int]()
    decide = customers.update

    def interrupted(stored: customer_pb2.Customer, *given: Any, **options: Any) -> Any:
        decided.append(stored.version)
        if len(decided) == 1:  # the import has read the customer and has not written it
            said_by_clerk(client, get(client, one), "chess")
        return decide(stored, *given, **options)

    monkeypatch.setattr(customers, "update", interrupted)
    job = loader.imported(f"customer_number,phone\n{one.customer_number},13800138000\n", mode=UPDATE)
    assert counts(job) == (0, 1, 0, 0)
    assert decided == [1, 1, 2]  # the import, the clerk, the import on what the clerk has left
    after = get(client, one)
    assert (list(after.interests), after.phones[0].number, after.version) == (["chess"], "+8613800138000", 3)
    assert [seq for _, seq, _ in updates(store)] == [2, 3]


def test_nothing_is_lost_when_a_clerk_changes_the_same_customers(
    loader: Any, client: Client, store: Store, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 20)
    made = [register(f"Person {number}") for number in range(60)]
    job, stop, kept = loader.create(mode=UPDATE), threading.Event(), dict[str, str]()

    def clerk() -> None:
        for turn in range(1000):
            one = get(client, made[turn * 7 % 60])
            try:
                said_by_clerk(client, one, f"said {turn}")
            except Conflict:
                continue  # the import was faster; a clerk would read again
            kept[one.customer_id] = f"said {turn}"
            if stop.is_set():
                return

    desk = threading.Thread(target=clerk)
    desk.start()
    rows = [f"{one.customer_number},1380013{number:04}\n" for number, one in enumerate(made)]
    loader.upload(job, "customer_number,phone\n" + "".join(rows * 3), piece=10_000)
    loader.work_off()
    stop.set()
    desk.join()
    assert counts(loader.seen(job)) == (0, 60, 120, 0)
    found = {one["_id"]: one for one in store[CUSTOMERS.name].find({})}
    assert [found[one.customer_id]["phones"][0]["number"] for one in made] == [
        f"+861380013{number:04}" for number in range(60)
    ]
    assert kept
    assert {key: found[key]["interests"] for key in kept} == {key: [said] for key, said in kept.items()}
    seqs: dict[str, list[int]] = {}
    for one in testing.published(store):
        seqs.setdefault(one.aggregate_id, []).append(one.seq)
    assert all(seqs[one.customer_id] == [*range(1, found[one.customer_id]["version"] + 1)] for one in made)
