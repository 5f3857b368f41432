"""Customers through their service: registered, found, changed, archived."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from crm.customer.v1 import customer_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from chassis import testing
from chassis.errors import Conflict, Denied, Invalid, NotFound
from chassis.reads import Reader
from chassis.store import Store
from chassis.testing import Client

Register = Callable[..., customer_pb2.Customer]


def key() -> str:
    return str(uuid4())


def search(client: Client, query: str, **fields: Any) -> list[str]:
    found = client.call(customer_pb2.SearchCustomersRequest(query=query, **fields))
    return [one.customer.names[0].full for one in found.results]


def update(client: Client, customer: customer_pb2.Customer, paths: list[str], *, version: int = 0, **fields: Any):
    given = customer_pb2.Customer(customer_id=customer.customer_id, **fields)
    request = customer_pb2.UpdateCustomerRequest(
        customer=given, update_mask=FieldMask(paths=paths), version=version or customer.version, request_id=key()
    )
    return client.call(request).customer


def fields_of(caught: pytest.ExceptionInfo[Invalid]) -> list[str]:
    return [one.field for one in caught.value.violations]


def test_a_customer_gets_a_number_and_normal_identifiers(register: Register, store: Store) -> None:
    made = register(" 张  伟 ", phones=[{"number": "138-0013-8000"}], emails=[{"address": "Z@Example.COM"}])
    assert made.names[0].full == "张 伟"
    assert (made.phones[0].number, made.emails[0].address) == ("+8613800138000", "z@example.com")
    assert (made.version, made.source, made.customer_number[0]) == (1, "WEB", "C")
    assert [one.type.rpartition(".")[2] for one in testing.published(store)] == ["CustomerRegistered"]


def test_a_customer_is_read_by_id_and_by_number(client: Client, register: Register) -> None:
    made = register("Ann")
    for said in (made.customer_id, made.customer_number, made.customer_number.lower()):
        assert client.call(customer_pb2.GetCustomerRequest(customer_id=said)).customer == made
    with pytest.raises(NotFound):
        client.call(customer_pb2.GetCustomerRequest(customer_id="nobody"))


def test_every_bad_field_is_named_and_nothing_is_stored(register: Register, store: Store) -> None:
    with pytest.raises(Invalid) as caught:
        register(
            "Ann",
            phones=[{"number": "13800138000"}, {"number": "12"}],
            emails=[{"address": "not an address"}],
            documents=[{"kind": "DOCUMENT_KIND_NATIONAL_ID", "number": "110105194912310021"}],
            birthday={"year": 2023, "month": 2, "day": 30},
            time_zone="Mars/Olympus",
        )
    assert fields_of(caught) == [
        "customer.phones[1].number", "customer.emails[0].address", "customer.documents[0].number",
        "customer.birthday", "customer.time_zone",
    ]  # fmt: skip
    assert store["customers"].count_documents({}) == 0
    assert testing.published(store) == []


@pytest.mark.parametrize("birthday", [{"year": 2024, "month": 2, "day": 29}, {"year": 1900, "month": 1, "day": 1}])
def test_birthdays_that_exist_are_taken(register: Register, birthday: dict[str, int]) -> None:
    assert register("Ann", birthday=birthday).birthday.year == birthday["year"]


def test_a_change_touches_what_the_mask_names(client: Client, register: Register, store: Store) -> None:
    made = register("Ann", interests=["chess"], phones=[{"number": "13800138000"}])
    changed = update(client, made, ["interests"], interests=["sailing"], names=[{"full": "Not asked for"}])
    assert (list(changed.interests), changed.names[0].full, changed.version) == (["sailing"], "Ann", 2)
    assert changed.phones == made.phones
    event = testing.published(store)[-1].message()
    assert list(event.changed.paths) == ["interests"]


def test_a_change_that_changes_nothing_makes_no_event(client: Client, register: Register, store: Store) -> None:
    made = register("Ann", interests=["chess"])
    assert update(client, made, ["interests"], interests=["chess"]).version == 1
    assert len(testing.published(store)) == 1


def test_the_changed_customer_is_checked_as_a_whole(client: Client, register: Register) -> None:
    made = register("Ann")
    with pytest.raises(Invalid):
        update(client, made, ["names"])
    with pytest.raises(Invalid, match="update_mask"):
        update(client, made, ["customer_number"])
    with pytest.raises(Conflict):
        update(client, made, ["interests"], version=7, interests=["chess"])


def test_a_masked_field_cannot_be_written_back(client: Client, register: Register) -> None:
    made = register("Ann", phones=[{"number": "13800138000"}])
    request = customer_pb2.UpdateCustomerRequest(
        customer=customer_pb2.Customer(customer_id=made.customer_id, phones=[{"number": "•••8000"}]),
        update_mask=FieldMask(paths=["phones"]), version=1, request_id=key(),
    )  # fmt: skip
    with pytest.raises(Denied):
        client.call(request, caller=testing.somebody(sees=frozenset({1, 2})))


def test_an_archived_customer_is_found_on_request_only_and_takes_no_changes(client: Client, register: Register) -> None:
    made = register("Ann Archived")
    request = customer_pb2.ArchiveCustomerRequest(
        customer_id=made.customer_id, reason="moved away", version=1, request_id=key()
    )
    assert client.call(request).customer.status == customer_pb2.CUSTOMER_STATUS_ARCHIVED
    assert search(client, "ann archived") == []
    assert search(client, "ann archived", include_archived=True) == ["Ann Archived"]
    with pytest.raises(Conflict, match="archived"):
        update(client, made, ["interests"], version=2, interests=["chess"])


def test_search_ranks_and_says_whether_there_is_more(client: Client, register: Register) -> None:
    for name in ("Li Wei", "Li Weiming", "Anna Li", *(f"Li Nr{number}" for number in range(5))):
        register(name)
    assert search(client, "li wei") == ["Li Wei", "Li Weiming"]
    page = client.call(customer_pb2.SearchCustomersRequest(query="li", page_size=3))
    assert (len(page.results), page.more) == (3, True)
    page = client.call(customer_pb2.SearchCustomersRequest(query="li", page_size=8))
    assert (len(page.results), page.more) == (8, False)


def test_what_identifies_is_surer_than_a_name(client: Client, register: Register) -> None:
    register("Ann", phones=[{"number": "+8613800138000"}])
    register("13800138000")
    found = client.call(customer_pb2.SearchCustomersRequest(query="138 0013 8000")).results
    assert [(one.match, one.customer.names[0].full) for one in found] == [(customer_pb2.MATCH_PHONE, "Ann")]


def test_search_reads_an_index(
    client: Client, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("Ann")
    filters = []
    original = Reader.documents

    def watched(self: Reader, collection: Any, where: dict[str, Any], **options: Any) -> Any:
        filters.append((collection.name, where))
        return original(self, collection, where, **options)

    monkeypatch.setattr(Reader, "documents", watched)
    for query in ("Ann", "an", "138 0013 8000", "e-1 somebody"):
        search(client, query)
    plans = [str(store["customers"].find(where).explain()) for name, where in filters if name == "customers"]
    assert len(plans) > 8
    assert all("_terms_1" in plan and "COLLSCAN" not in plan for plan in plans)


def test_pages_go_through_everybody_once(client: Client, register: Register) -> None:
    made = {register(f"Person {number}").customer_number for number in range(7)}
    seen, token = [], ""
    while True:
        page = client.call(customer_pb2.ListCustomersRequest(page_size=3, page_token=token))
        seen += [one.customer_number for one in page.customers]
        token = page.next_page_token
        if not token:
            break
        register(f"Late {len(seen)}")
    assert made <= set(seen)
    assert len(seen) == len(set(seen))
    with pytest.raises(Invalid, match="page_token"):
        client.call(customer_pb2.ListCustomersRequest(page_token="forged"))


# --- custom attributes -----------------------------------------------------------------------------------------------


def define(client: Client, name: str, kind: str, **fields: Any) -> customer_pb2.Attribute:
    attribute = customer_pb2.Attribute(key=name, label=name.title(), type=f"ATTRIBUTE_TYPE_{kind}", **fields)
    return client.call(customer_pb2.DefineAttributeRequest(attribute=attribute, request_id=key())).attribute


def with_attribute(register: Register, name: str, value: Any) -> customer_pb2.Customer:
    holder = customer_pb2.Customer()
    if isinstance(value, bool):
        holder.attributes[name].bool_value = value
    elif isinstance(value, str):
        holder.attributes[name].string_value = value
    else:
        holder.attributes[name].number_value = value
    return register("Ann", attributes=dict(holder.attributes))


@pytest.mark.parametrize(
    ("kind", "rules", "good", "bad", "reason"),
    [
        ("TEXT", {"pattern": "[A-Z]{3}"}, "ABC", "abc", "does not match [A-Z]{3}"),
        ("NUMBER", {"minimum": 0.0, "maximum": 10.0}, 10, 11, "is greater than 10"),
        ("BOOLEAN", {}, True, "true", "must be true or false"),
        ("DATE", {}, "2024-02-29", "2023-02-29", "must be a date that exists, written YYYY-MM-DD"),
        ("CHOICE", {"options": ["gold", "silver"]}, "gold", "tin", "must be one of gold, silver"),
    ],
)
def test_values_are_checked_against_their_definition(
    client: Client, register: Register, kind: str, rules: dict[str, Any], good: Any, bad: Any, reason: str
) -> None:
    define(client, "trait", kind, **rules)
    assert "trait" in with_attribute(register, "trait", good).attributes
    with pytest.raises(Invalid) as caught:
        with_attribute(register, "trait", bad)
    assert [(one.field, one.reason) for one in caught.value.violations] == [('customer.attributes["trait"]', reason)]


def test_an_undefined_attribute_and_a_missing_one_are_named(client: Client, register: Register) -> None:
    define(client, "plan", "TEXT", required=True)
    with pytest.raises(Invalid) as caught:
        with_attribute(register, "other", "x")
    assert fields_of(caught) == ['customer.attributes["plan"]', 'customer.attributes["other"]']


def test_a_stricter_definition_leaves_those_alone_who_were_there_before(client: Client, register: Register) -> None:
    defined = define(client, "plan", "TEXT")
    ann, bob = with_attribute(register, "plan", "Platinum"), register("Bob")
    stricter = customer_pb2.UpdateAttributeRequest(
        attribute=customer_pb2.Attribute(key="plan", pattern="[a-z]+", required=True),
        update_mask=FieldMask(paths=["pattern", "required"]), version=defined.version, request_id=key(),
    )  # fmt: skip
    client.call(stricter)
    for one in (ann, bob):
        assert update(client, one, ["interests"], interests=["photography"]).interests == ["photography"]
    with pytest.raises(Invalid) as caught:
        update(client, ann, ["attributes"], version=2, attributes={"plan": Value(string_value="Gold")})
    assert fields_of(caught) == ['customer.attributes["plan"]']
    with pytest.raises(Invalid) as caught:
        update(client, ann, ["attributes"], version=2)
    assert fields_of(caught) == ['customer.attributes["plan"]']


def test_no_pattern_takes_for_ever(client: Client, register: Register) -> None:
    define(client, "code", "TEXT", pattern="(a|a)*b")
    with pytest.raises(Invalid):
        with_attribute(register, "code", "a" * 1000)


@pytest.mark.parametrize("name", ["\u3000", "\u2003\u2003", "\u3000\u00a0"])
def test_a_name_of_spaces_of_any_script_is_none(register: Register, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        register(name)
    assert fields_of(caught) == ["customer.names[0].full"]


def test_a_yes_or_no_can_be_searched_for(client: Client, register: Register) -> None:
    define(client, "vip", "BOOLEAN", searchable=True)
    with_attribute(register, "vip", True)
    assert (search(client, "true"), search(client, "false")) == (["Ann"], [])


def test_a_key_is_defined_once_and_searchable_values_are_found(client: Client, register: Register) -> None:
    defined = define(client, "plan", "TEXT")
    with pytest.raises(Conflict):
        define(client, "plan", "NUMBER")
    with_attribute(register, "plan", "Platinum")
    assert search(client, "platinum") == []
    changed = customer_pb2.UpdateAttributeRequest(
        attribute=customer_pb2.Attribute(key="plan", searchable=True),
        update_mask=FieldMask(paths=["searchable"]), version=defined.version, request_id=key(),
    )  # fmt: skip
    client.call(changed)
    assert search(client, "PLATINUM") == ["Ann"]


@pytest.mark.parametrize(
    ("kind", "rules", "field"),
    [
        ("CHOICE", {}, "attribute.options"),
        ("NUMBER", {"pattern": "x"}, "attribute.pattern"),
        ("TEXT", {"pattern": "("}, "attribute.pattern"),
        ("TEXT", {"pattern": "(?=a)b"}, "attribute.pattern"),
        ("NUMBER", {"minimum": 2.0, "maximum": 1.0}, "attribute.minimum"),
    ],
)
def test_a_definition_must_make_sense(client: Client, kind: str, rules: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        define(client, "trait", kind, **rules)
    assert fields_of(caught) == [field]
