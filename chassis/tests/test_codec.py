"""Every message type of every contract goes through both faces of the codec and comes back as it was."""

import itertools
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from bson.decimal128 import Decimal128
from crm.customer.v1 import customer_pb2, transfer_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.type import decimal_pb2, money_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis import codec, contract
from chassis.codec.scalars import is_map, map_fields
from chassis.errors import Invalid, Violation

TYPES = {one.full_name: message_factory.GetMessageClass(one) for one in contract.messages()}
OTHERS = {
    "google.type.Money": money_pb2.Money,
    "google.type.Decimal": decimal_pb2.Decimal,
    "google.protobuf.Value": struct_pb2.Value,
}
# BSON dates come back in UTC.
OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["", "张伟", "é́", "😀𠮷", "a.b$c", "0", "null", "\0", "\u202e"]),
)
INSTANTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))
NUMBERS = itertools.count()
RUN = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


# --- messages of any type --------------------------------------------------------------------------------------------


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return {
        FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
        FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
        FieldDescriptor.CPPTYPE_FLOAT: st.floats(allow_nan=False, width=32),
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_STRING: st.binary(max_size=8) if field.type == field.TYPE_BYTES else TEXT,
    }[field.cpp_type]


def fill(draw: st.DrawFn, message: Any, depth: int) -> None:
    special = SPECIAL.get(message.DESCRIPTOR.full_name)
    if special is not None:
        special(draw, message)
        return
    for field in message.DESCRIPTOR.fields:
        if draw(st.booleans()) and (depth < 4 or field.message_type is None):
            fill_field(draw, message, field, depth)


def fill_field(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    target = getattr(message, field.name)
    if is_map(field):
        key, value = map_fields(field)
        for _ in range(draw(st.integers(0, 2))):
            name = draw(scalars(key))
            if value.message_type is not None:
                fill(draw, target[name], depth + 1)
            else:
                target[name] = draw(scalars(value))
    elif field.message_type is not None:
        for one in [target.add() for _ in range(draw(st.integers(0, 2)))] if field.is_repeated else [target]:
            one.SetInParent()
            fill(draw, one, depth + 1)
    elif field.is_repeated:
        target.extend(draw(st.lists(scalars(field), max_size=3)))
    else:
        setattr(message, field.name, draw(scalars(field)))


def fill_timestamp(draw: st.DrawFn, message: Any) -> None:
    message.FromDatetime(draw(INSTANTS))


def fill_duration(draw: st.DrawFn, message: Any) -> None:
    message.FromMilliseconds(draw(st.integers(-(10**12), 10**12)))


def fill_mask(draw: st.DrawFn, message: Any) -> None:
    message.paths.extend(draw(st.lists(st.sampled_from(["names", "phones", "attributes.plan"]), max_size=3)))


def fill_date(draw: st.DrawFn, message: Any) -> None:
    day = draw(st.dates())
    message.year, message.month, message.day = day.year, day.month, day.day


def fill_decimal(draw: st.DrawFn, message: Any) -> None:
    message.value = str(draw(st.decimals(-(10**12), 10**12, places=4)))


def fill_money(draw: st.DrawFn, message: Any) -> None:
    amount = draw(st.integers(-(10**15), 10**15))
    message.currency_code = draw(st.sampled_from(["CNY", "EUR"]))
    message.units, message.nanos = int(amount / 10**9), int(abs(amount) % 10**9) * (1 if amount > 0 else -1)


def fill_value(draw: st.DrawFn, message: Any) -> None:
    kind = draw(st.sampled_from(["text", "number", "truth", "nothing", "object", "list"]))
    if kind == "text":
        message.string_value = draw(TEXT)
    elif kind == "number":
        message.number_value = draw(st.floats(allow_nan=False, allow_infinity=False))
    elif kind == "truth":
        message.bool_value = draw(st.booleans())
    elif kind == "nothing":
        message.null_value = 0
    elif kind == "object":
        message.struct_value.fields[draw(TEXT)].string_value = draw(TEXT)
    else:
        message.list_value.values.add().number_value = draw(st.integers(-5, 5))


SPECIAL = {
    "google.protobuf.Timestamp": fill_timestamp,
    "google.protobuf.Duration": fill_duration,
    "google.protobuf.FieldMask": fill_mask,
    "google.type.Date": fill_date,
    "google.type.Decimal": fill_decimal,
    "google.type.Money": fill_money,
    "google.protobuf.Value": fill_value,
}


@st.composite
def messages(draw: st.DrawFn, kind: type[Message]) -> Message:
    message = kind()
    fill(draw, message, 0)
    return message


def stored(message: Message) -> Message:
    """The message after a journey through the store."""
    document = codec.to_document(message)
    return codec.from_document(type(message), bson.decode(bson.encode(document), OPTIONS))


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_message_survives_the_store(name: str) -> None:
    @RUN
    @given(messages(TYPES[name]))
    def law(message: Message) -> None:
        assert stored(message) == message

    law()


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_message_survives_json(name: str) -> None:
    @RUN
    @given(messages(TYPES[name]))
    def law(message: Message) -> None:
        assert codec.from_json(type(message), codec.to_json(message)) == message

    law()


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_exact_amounts_and_free_values_survive_both_faces(name: str) -> None:
    @RUN
    @given(messages(OTHERS[name]))
    def law(message: Message) -> None:
        holder: Any = holder_of(name)()
        holder.one.CopyFrom(message)
        assert stored(holder) == holder
        assert codec.from_json(type(holder), codec.to_json(holder)) == holder

    law()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.sampled_from(["names", "full"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def mistakes(kind: type[Message], value: dict[str, Any]) -> tuple[Violation, ...]:
    try:
        codec.from_json(kind, value)
    except Invalid as error:
        return error.violations
    return ()


@pytest.mark.parametrize("name", sorted(name for name in TYPES if name.endswith("Request")))
def test_whatever_json_says_is_a_message_or_a_list_of_mistakes(name: str) -> None:
    fields = [field.name for field in TYPES[name].DESCRIPTOR.fields]

    @RUN
    @given(st.dictionaries(st.sampled_from([*fields, "strange"]), JSON, max_size=4))
    def law(value: dict[str, Any]) -> None:
        found = mistakes(TYPES[name], value)
        assert all(one.field and one.reason for one in found)
        assert found or "strange" not in value

    law()


# --- contracts that grow ---------------------------------------------------------------------------------------------


def built(*fields: tuple[str, int, str]) -> type[Message]:
    """A message type made here: name, number and type of each field."""
    package = f"trial{next(NUMBERS)}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.dependency.extend(["google/type/money.proto", "google/type/decimal.proto", "google/protobuf/struct.proto"])
    message = file.message_type.add(name="Note")
    for name, number, kind in fields:
        scalar = {"string": 9, "int64": 3, "double": 1}.get(kind)
        field = message.field.add(name=name, number=number, label=1, type=scalar or 11)
        if scalar is None:
            field.type_name = f".{kind}"
    descriptor_pool.Default().Add(file)
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"{package}.Note"))


def holder_of(kind: str) -> type[Message]:
    return built(("one", 1, kind))


def test_a_field_of_a_newer_contract_survives_old_code() -> None:
    new, old = built(("text", 1, "string"), ("amount", 2, "int64"), ("more", 3, "double")), built(("text", 1, "string"))
    sent: Any = new(text="张", amount=-5, more=1.5)
    seen = stored(old.FromString(sent.SerializeToString()))
    assert new.FromString(seen.SerializeToString()) == sent


def test_a_key_of_a_newer_document_survives_old_code() -> None:
    new, old = built(("text", 1, "string"), ("amount", 2, "int64")), built(("text", 1, "string"))
    document = bson.decode(bson.encode(codec.to_document(new(text="a", amount=7))), OPTIONS)
    read = codec.from_document(old, document)
    read.text = "b"  # type: ignore[attr-defined]
    written = codec.to_document(read)
    assert codec.from_document(new, written) == new(text="b", amount=7)


def test_keys_with_an_underscore_are_the_stores_own() -> None:
    read = codec.from_document(customer_pb2.Customer, {"customer_number": "C1", "_terms": ["a"]})
    assert codec.to_document(read) == {"customer_number": "C1"}


# --- how things look -------------------------------------------------------------------------------------------------


def test_a_document_holds_what_a_store_can_compare() -> None:
    moment = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
    customer = customer_pb2.Customer(kind=customer_pb2.CUSTOMER_KIND_PERSON, create_time=moment)
    assert codec.to_document(customer) == {"kind": "PERSON", "create_time": moment}
    money: Any = holder_of("google.type.Money")()
    money.one.currency_code, money.one.units, money.one.nanos = "CNY", 12, 500_000_000
    assert codec.to_document(money) == {"one": {"currency_code": "CNY", "amount": Decimal128("12.50")}}


def test_absent_and_empty_are_told_apart_where_the_contract_does() -> None:
    absent = customer_pb2.Attribute(key="a")
    empty = customer_pb2.Attribute(key="a", minimum=0.0)
    assert stored(absent) == absent != empty == stored(empty)
    assert "minimum" not in codec.to_json(absent)
    assert codec.to_json(empty)["minimum"] == 0


def test_map_keys_may_hold_anything() -> None:
    mapping = {"a.b": "1", "$where": "2", "%2E": "3", "": "4", "张.伟": "5"}
    job = transfer_pb2.ImportJob(mapping=mapping)
    assert stored(job) == job
    assert not any("." in key or key.startswith("$") for key in codec.to_document(job)["mapping"])


def test_instants_finer_than_the_store_keeps_are_not_rounded() -> None:
    fine = customer_pb2.Customer(create_time=timestamp_pb2.Timestamp(seconds=1, nanos=123_456_789))
    assert stored(fine) == fine


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ({"names": "x"}, "names", "must be a list"),
        ({"names": [{"full": 5}]}, "names[0].full", "must be a string"),
        ({"names": [5]}, "names[0]", "must be an object"),
        ({"birthday": "2023-02-29"}, "birthday", "must be a date that exists, written YYYY-MM-DD"),
        ({"birthday": 7}, "birthday", "must be a string"),
        ({"kind": "ALIEN"}, "kind", "must be one of PERSON, ORGANIZATION"),
        ({"kind": 1}, "kind", "must be one of PERSON, ORGANIZATION"),
        ({"version": 2**31}, "version", "must be between -2147483648 and 2147483647"),
        ({"version": 1.5}, "version", "must be a whole number"),
        ({"version": True}, "version", "must be a whole number"),
        ({"create_time": "yesterday"}, "create_time", "must be an instant such as 2026-05-01T09:30:00Z"),
        ({"emails": [{"preferred": "yes"}]}, "emails[0].preferred", "must be true or false"),
        ({"names": [{"full": "\ud800"}]}, "names[0].full", "holds half a surrogate pair"),
        ({"nickname": "x"}, "nickname", "is not a field of this request"),
    ],
)
def test_a_mistake_is_named_with_its_path(value: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        codec.from_json(customer_pb2.Customer, value)
    assert [(one.field, one.reason) for one in caught.value.violations] == [(field, reason)]


def test_every_mistake_is_found_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        codec.from_json(customer_pb2.Customer, {"kind": 1, "names": [{"full": 1}, {"given": 2}], "x": 3})
    assert [one.field for one in caught.value.violations] == ["kind", "names[0].full", "names[1].given", "x"]


def test_deep_nesting_is_refused() -> None:
    value: Any = "deep"
    for _ in range(100):
        value = [value]
    with pytest.raises(Invalid, match="nested deeper"):
        codec.from_json(customer_pb2.Customer, {"attributes": {"a": value}})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_json_cannot_write_have_names(number: float) -> None:
    attribute = customer_pb2.Attribute(minimum=number)
    assert codec.to_json(attribute)["minimum"] in ("NaN", "Infinity", "-Infinity")
    assert str(codec.from_json(customer_pb2.Attribute, codec.to_json(attribute)).minimum) == str(number)
