"""Files as records and records as customers; no server is needed."""

import csv
import io
import re

import pytest
from crm.customer.v1 import customer_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import Invalid
from customer.rules import files, mapping
from customer.rules.files import Unreadable

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ROWS = st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=12)
PLAN = customer_pb2.Attribute(key="plan", label="Tarif", type="ATTRIBUTE_TYPE_TEXT")
AGE = customer_pb2.Attribute(key="age", label="Age", type="ATTRIBUTE_TYPE_NUMBER")
GOLD = customer_pb2.Attribute(key="gold", label="Gold", type="ATTRIBUTE_TYPE_BOOLEAN")
DEFINED = {"plan": PLAN, "age": AGE, "gold": GOLD}


def written(rows: list[list[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@settings(max_examples=200, deadline=None)
@given(ROWS, st.lists(st.integers(0, 20), max_size=20))
def test_a_file_gives_the_same_records_however_it_is_cut(rows: list[list[str]], sizes: list[int]) -> None:
    data = written(rows)
    whole = list(files.records([data], quoted=True))
    assert list(files.records(cut(data, sizes), quoted=True)) == whole
    assert whole[-1].end == len(data)
    read = [files.cells(one) for one in whole]
    # An apostrophe before a formula's first sign is ours; see `csv_line`.
    assert [row for row in read if row] == [[files._as_text(cell) for cell in row] for row in rows]


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(0, 11))
def test_reading_can_go_on_behind_any_record(rows: list[list[str]], after: int) -> None:
    data = written(rows)
    whole = list(files.records([data], quoted=True))
    done = whole[: min(after, len(whole))]
    at, line = (done[-1].end, 1 + sum(one.lines for one in done)) if done else (0, 1)
    assert list(files.records([data[at:]], quoted=True, start=at, line=line)) == whole[len(done) :]


@settings(max_examples=200, deadline=None)
@given(st.lists(CELL | st.text("'=+-@a", max_size=5), min_size=2, max_size=4))
def test_a_written_line_is_no_formula_and_reads_back(values: list[str]) -> None:
    line = files.csv_line(values)
    (record,) = files.records([line.encode()], quoted=True)
    assert files.cells(record) == values
    assert not any(cell[:1] in tuple("=+-@\t\r") for cell in next(csv.reader(io.StringIO(line, newline=""))) if cell)


def test_a_record_longer_than_any_is_refused_alone() -> None:
    data = b"a,b\n" + b'"' + b"x" * 300_000 + b"\nc,d\ne,f\n"
    found = list(files.records(cut(data, [65536] * 4), quoted=True))
    assert [one.data is None for one in found] == [False, True, False, False]
    assert [one.line for one in found] == [1, 2, 3, 4]
    with pytest.raises(Unreadable, match="is longer than 262,144 bytes"):
        files.cells(found[1])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfe,x\n", "is not UTF-8 at byte 1"),
        (b"a\0b,x\n", "holds a NUL character"),
        (b'"a"b,x\n', "is not CSV"),
        (b'"a\n', "is not CSV"),
    ],
)
def test_an_unreadable_record_says_why(data: bytes, reason: str) -> None:
    (record,) = files.records([data], quoted=True)
    with pytest.raises(Unreadable, match=reason):
        files.cells(record)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a,,c\n", "column 2 has no name"),
        (b"a,b,a\n", "the column 'a' comes twice"),
        (b"\n", "the first line is empty"),
    ],
)
def test_a_header_names_every_column_once(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        files.header(next(files.records([data], quoted=True)))


def test_a_byte_order_mark_belongs_to_no_name() -> None:
    assert files.header(next(files.records([b"\xef\xbb\xbf\xe5\xa7\x93\xe5\x90\x8d,b\r\n"], quoted=True))) == [
        "姓名",
        "b",
    ]


def test_too_many_or_too_few_cells_are_counted() -> None:
    (record,) = files.records([b"1,2,3\n"], quoted=True)
    with pytest.raises(Unreadable, match="has 3 cells, the header has 2"):
        files.csv_row(record, ["a", "b"])


# --- mapping ---------------------------------------------------------------------------------------------------------


def test_columns_are_guessed_by_what_people_call_them() -> None:
    columns = ["姓名", "Mobile Phone", "E-Mail", "Date of Birth", "Tarif", "age", "phones[1].number", "Remark", "Phone"]
    assert mapping.guess(columns, DEFINED) == {
        "姓名": "names.full",
        "Mobile Phone": "phones.number",
        "E-Mail": "emails.address",
        "Date of Birth": "birthday",
        "Tarif": "attributes.plan",
        "age": "attributes.age",
        "phones[1].number": "phones[1].number",
    }


@pytest.mark.parametrize(
    "target",
    ["customer_number", "version", "status", "source", "nonsense", "names", "phones.nonsense", "attributes.gone", ""],
)
def test_a_target_must_be_a_field_that_may_be_imported(target: str) -> None:
    with pytest.raises(Invalid) as caught:
        mapping.check({"A": target}, DEFINED)
    assert [one.field for one in caught.value.violations] == ['mapping["A"]']


def test_the_number_is_a_target_only_where_customers_are_changed() -> None:
    columns = ["客户编号", "customer_id", "customer_number", "left_out", "name"]
    assert mapping.guess(columns, DEFINED) == {"name": "names.full"}
    guessed = {"客户编号": "customer_number", "left_out": "left_out", "name": "names.full"}
    assert mapping.guess(columns, DEFINED, updating=True) == guessed
    mapping.check(guessed, DEFINED, updating=True)


def test_a_key_of_the_api_means_itself_and_others_what_the_mapping_or_the_guess_says() -> None:
    keys = ["names", "customer_id", "birthday", "手机", "n"]
    own = {"names": "names", "birthday": "birthday"}
    assert mapping.of_keys(keys, {}, DEFINED) == own | {"手机": "phones.number"}
    assert mapping.of_keys(keys, {"n": "interests"}, DEFINED) == own | {"n": "interests"}


def test_a_target_is_given_once() -> None:
    with pytest.raises(Invalid, match="several columns"):
        mapping.check({"A": "names.full", "B": "names.full"}, DEFINED)


def made(row: dict[str, object], **targets: str) -> customer_pb2.Customer:
    return mapping.said(row, mapping.plan(targets, DEFINED)).customer


def test_a_row_becomes_a_customer() -> None:
    customer = made(
        {"n": " 张伟 ", "p": "13800138000", "i": "chess; 音乐；", "b": "1990-02-28", "g": "女"}
        | {"x": "Gold", "a": "42", "y": "Yes"},
        n="names.full", p="phones[1].number", i="interests", b="birthday", g="gender",
        x="attributes.plan", a="attributes.age", y="attributes.gold",
    )  # fmt: skip
    assert customer.names[0].full == "张伟"
    assert [one.number for one in customer.phones] == ["13800138000"]
    assert list(customer.interests) == ["chess", "音乐"]
    assert (customer.birthday.month, customer.gender) == (2, customer_pb2.GENDER_FEMALE)
    assert customer.attributes["age"].number_value == 42
    assert customer.attributes["gold"].bool_value is True
    assert customer.kind == customer_pb2.CUSTOMER_KIND_PERSON


def test_a_whole_name_is_made_of_its_parts() -> None:
    assert made({"f": "张", "g": "伟"}, f="names.family", g="names.given").names[0].full == "张伟"
    assert made({"f": "O'Connor", "g": "Renée"}, f="names.family", g="names.given").names[0].full == "Renée O'Connor"


def test_cells_that_cannot_be_read_are_named_by_their_column() -> None:
    with pytest.raises(Invalid) as caught:
        made({"B": "30.02.2023", "G": "robot"}, B="birthday", G="gender")
    assert [one.field for one in caught.value.violations] == ["B", "G"]


@pytest.mark.parametrize("given", [{"first": "A"}, ["A"], [["A"]]])
def test_a_structured_value_is_no_text(given: object) -> None:
    for target in ("names.full", "birthday", "gender", "phones.preferred"):
        with pytest.raises(Invalid) as caught:
            made({"n": given}, n=target)
        assert [one.field for one in caught.value.violations] == ["n"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["full", "kind", "x"]), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(
    "names documents phones emails addresses attributes kind birthday gender interests service_numbers time_zone "
    "customer_number left_out name phone phones[3].preferred addresses.postal_address.revision plan age gold x".split()
)


def faults(record: dict[str, object]) -> list[str]:
    plan = mapping.plan(mapping.of_keys(record, {}, DEFINED, updating=True), DEFINED)
    try:
        mapping.said(record, plan)
    except Invalid as refused:
        return [one.field for one in refused.violations]
    return []


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, JSON, max_size=6))
def test_any_record_is_read_or_refused_naming_what_is_wrong(record: dict[str, object]) -> None:
    assert {re.split(r"[\[.]", one)[0] for one in faults(record)} <= {re.split(r"[\[.]", key)[0] for key in record}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9)))
def test_several_texts_in_one_cell_are_read_as_the_same_texts(texts: list[str]) -> None:
    assert list(made({"n": "Ann", "i": mapping.one_cell(texts)}, n="names.full", i="interests").interests) == [
        one.strip() for one in texts
    ]


def test_a_cell_with_several_texts_stays_readable() -> None:
    assert mapping.one_cell(["chess", "音乐"]) == "chess; 音乐"
    assert mapping.one_cell(["a; b", "c"]) == '["a; b","c"]'


def test_columns_that_contradict_each_other_are_named() -> None:
    with pytest.raises(Invalid) as caught:
        made({"a": "Ann", "b": "Bob"}, a="names.full", b="names[0].full")
    assert [one.field for one in caught.value.violations] == ["b"]


def test_a_violation_is_named_by_its_column_though_an_item_before_is_empty() -> None:
    row = {"n": "Ann", "p": "", "q": "12", "r": "13"}
    plan = mapping.plan({"n": "names.full", "p": "phones.number", "q": "phones[1].number", "r": "phones[2].number"}, {})
    said = mapping.said(row, plan)
    assert [one.number for one in said.customer.phones] == ["12", "13"]
    assert (said.columns["phones[0].number"], said.columns["phones[1].number"]) == ("q", "r")


# --- what a row changes ----------------------------------------------------------------------------------------------


def changed(stored: customer_pb2.Customer, row: dict[str, object], **targets: str) -> tuple[object, list[str]]:
    given, mask = mapping.change(stored, mapping.said(row, mapping.plan(targets, DEFINED)))
    return given, sorted(mask.paths)


def test_a_change_names_what_the_row_holds_and_nothing_else() -> None:
    stored = customer_pb2.Customer(kind="CUSTOMER_KIND_PERSON")
    row = {"no": "C1", "k": "PERSON", "p": "13800138000", "x": "Gold", "i": ""}
    _, paths = changed(
        stored, row, no="customer_number", k="kind", p="phones.number", x="attributes.plan", i="interests"
    )
    assert paths == ["attributes.plan", "phones"]


def test_a_row_that_does_not_say_the_kind_takes_nobody_for_a_person() -> None:
    stored = customer_pb2.Customer(kind="CUSTOMER_KIND_ORGANIZATION")
    assert changed(stored, {"no": "C1", "n": "Acme"}, no="customer_number", n="names.full")[1] == ["names"]
    with pytest.raises(Invalid, match="cannot be changed"):
        changed(stored, {"no": "C1", "k": "PERSON"}, no="customer_number", k="kind")


def test_empty_cells_say_nothing() -> None:
    customer = made({"n": "Ann", "p": " ", "b": ""}, n="names.full", p="phones.number", b="birthday")
    assert (len(customer.phones), customer.HasField("birthday")) == (0, False)
