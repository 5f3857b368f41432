"""JSON Lines: every record says by its own keys what it holds."""

import json
from threading import Event as StopSignal
from typing import Any

import pytest
from crm.customer.v1 import customer_pb2, transfer_pb2

from chassis.reads import Reader
from chassis.store import Store
from chassis.testing import Client
from customer import jobs
from customer.jobs import reading
from customer.queries.imports import running
from customer.store import CUSTOMERS

FORM = "JSON_LINES"


def lines(*records: Any) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)


def people(count: int) -> list[dict[str, str]]:
    return [{"Name": f"Person {number}"} for number in range(count)]


def stored(store: Store) -> list[dict[str, Any]]:
    return sorted(store[CUSTOMERS.name].find({}), key=lambda one: one["customer_number"])


def test_own_keys_and_the_form_of_the_api(loader: Any) -> None:
    flat = loader.imported('{"Name": "Ann", "tel": "+44 20 7946 0958"}\nnot json\n[1]\n{"Name": "Bob"}', FORM)
    assert (flat.imported, flat.rejected) == (2, 2)
    whole = '{"kind": "ORGANIZATION", "names": [{"full": "Acme"}], "customer_number": "C1", "version": 7}'
    nested = loader.imported(f'{whole}\n{{"names": [{{"full": "X", "nick": "Y"}}]}}\n', FORM)
    assert (nested.imported, nested.rejected) == (1, 1)
    assert loader.refused(nested)[0].startswith("2,names[0].nick,is not a field")
    assert loader.names() == ["Acme", "Ann", "Bob"]
    assert list(nested.ignored_columns) == ["customer_number", "version"]


def test_a_key_that_comes_late_is_read_all_the_same(loader: Any, store: Store) -> None:
    records = [*people(100), {"Name": "Late", "手机": "13800138000", "备注": "x"}, {"emails": [{"address": "a@b.cn"}]}]
    job = loader.imported(lines(*records), FORM)
    assert (job.imported, job.rejected) == (101, 1)
    assert stored(store)[100]["phones"] == [{"number": "+8613800138000"}]
    assert dict(job.mapping) == {"Name": "names.full", "手机": "phones.number", "emails": "emails"}
    assert list(job.ignored_columns) == ["备注"]
    assert job.mapping_guessed


def test_a_mapped_key_may_come_late_or_never(loader: Any, store: Store) -> None:
    mapping = {"n": "names.full", "m": "phones.number", "z": "birthday"}
    records = [*({"n": f"P {number}"} for number in range(120)), {"n": "Late", "m": "13800138000", "tel": "x"}]
    job = loader.imported(lines(*records), FORM, mapping=mapping)
    assert (job.status, job.imported) == (transfer_pb2.IMPORT_STATUS_COMPLETED, 121)
    assert stored(store)[120]["phones"] == [{"number": "+8613800138000"}]
    assert dict(job.mapping) == mapping
    assert list(job.ignored_columns) == ["tel"]


def test_a_structured_value_is_no_text(loader: Any) -> None:
    records = [
        {"Name": {"first": "A"}},
        {"Name": ["A"]},
        {"Name": "B", "interests": [{"x": 1}]},
        {"Name": "C", "birthday": {"year": 1990}},
        {"Name": "D", "service_numbers": {"a": "b"}},
        {"names": "E"},
    ]
    job = loader.imported(lines(*records), FORM)
    assert [line.split(",")[1] for line in loader.refused(job)] == [
        "Name", "Name", "interests", "birthday", "service_numbers", "names",
    ]  # fmt: skip
    assert loader.names() == []


def test_numbers_are_texts_too_and_null_says_nothing(loader: Any, store: Store) -> None:
    records = [{"Name": "Ann", "tel": 13800138000, "email": None}, {"Name": "Bob", "tel": 13900139000.0}]
    assert loader.imported(lines(*records), FORM).imported == 2
    assert [one["phones"][0]["number"] for one in stored(store)] == ["+8613800138000", "+8613900139000"]


def test_two_keys_that_contradict_each_other_are_refused(loader: Any) -> None:
    records = [
        {"phone": "13800138000", "mobile": "13900139000", "name": "A"},
        {"phone": None, "mobile": "13900139000", "name": "B"},
        {"name": "C", "姓名": "C"},
    ]
    job = loader.imported(lines(*records), FORM)
    assert loader.names() == ["B", "C"]
    assert loader.refused(job)[0].startswith("1,mobile,contradicts another column")


def test_a_worker_that_takes_over_reads_the_rest_the_same_way(
    loader: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 2)
    job, stop = loader.create(FORM), StopSignal()
    loader.upload(job, lines({"Name": "A", "x": 1}, {"Name": "B"}, {"姓名": "C", "y": 2}, {"Name": "D", "tel": "12"}))
    stop.set()
    jobs.work_off(store, running(Reader(store))[0], stop, region="CN")
    seen = loader.seen(job)
    assert (seen.status, seen.rows, list(seen.ignored_columns)) == (transfer_pb2.IMPORT_STATUS_RUNNING, 2, ["x"])
    loader.work_off()
    seen = loader.seen(job)
    assert (seen.rows, seen.created, loader.names()) == (4, 3, ["A", "B", "C"])
    assert dict(seen.mapping) == {"Name": "names.full", "姓名": "names.full", "tel": "phones.number"}
    assert list(seen.ignored_columns) == ["x", "y"]
    assert loader.refused(job)[0].startswith("4,tel,is not a phone number")


def test_what_goes_nowhere_is_told_within_bounds(loader: Any) -> None:
    job = loader.imported(lines(*({"Name": f"P {n}", f"{n}-" * 300: n} for n in range(700))), FORM)
    assert job.imported == 700
    assert len(job.ignored_columns) == 200
    assert max(map(len, job.ignored_columns)) == 200


def test_an_attribute_is_read_by_its_key_and_its_label(loader: Any, client: Client, store: Store) -> None:
    attribute = customer_pb2.Attribute(key="plan", label="套餐", type="ATTRIBUTE_TYPE_TEXT")
    client.call(customer_pb2.DefineAttributeRequest(attribute=attribute, request_id="define-plan"))
    records = [{"name": "A", "套餐": "Gold"}, {"names": [{"full": "B"}], "attributes": {"plan": "Tin"}}]
    records += [{"name": "C", "套餐": {"x": 1}}]
    job = loader.imported(lines(*records), FORM)
    assert [one["attributes"] for one in stored(store)] == [{"plan": "Gold"}, {"plan": "Tin"}]
    assert loader.refused(job)[0].startswith("3,套餐,must be text")
