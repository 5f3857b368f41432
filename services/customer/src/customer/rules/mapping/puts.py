"""Puts what a column holds into its field: words people write, several values in one cell, the API's own form."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson
from crm.customer.v1 import customer_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.type import date_pb2

from chassis import codec
from chassis.codec.scalars import Mistake, enum_names, json_number, text_parser
from chassis.errors import Invalid, Violation
from customer.rules.mapping.targets import WHOLE, Attributes, steps

M = TypeVar("M", bound=Message)
Put = Callable[[customer_pb2.Customer, Any], None]
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")
_YES = {"true": True, "yes": True, "y": True, "1": True, "是": True}
_NO = {"false": False, "no": False, "n": False, "0": False, "否": False}
_WORDS = {
    "gender": {"f": "FEMALE", "m": "MALE", "女": "FEMALE", "男": "MALE", "woman": "FEMALE", "man": "MALE"},
    "kind": {"individual": "PERSON", "个人": "PERSON", "company": "ORGANIZATION", "organisation": "ORGANIZATION"},
}


def putting(target: str, attributes: Attributes) -> Put:
    """What puts the value of a column with this target where it belongs.

    It raises `Mistake`, or `Invalid` naming the place inside a value in the API's form.
    """
    name, _, key = target.partition(".")
    if target in WHOLE:
        return _whole(target)
    return _attribute(key, attributes[key].type) if name == "attributes" else _put(target)


def _whole(name: str) -> Put:
    """A field in the form the API and the JSON export write."""

    def put(customer: customer_pb2.Customer, given: Any) -> None:
        found: list[Violation] = []
        codec.merge_json(customer, {name: given}, "", found)
        if found:
            raise Invalid(found)

    return put


def _attribute(key: str, kind: int) -> Put:
    def put(customer: customer_pb2.Customer, given: Any) -> None:
        value = _merged(Value(), _typed(kind, given))
        if key in customer.attributes:
            _require_same(customer.attributes[key], value)
        customer.attributes[key].CopyFrom(value)

    return put


def _typed(kind: int, given: Any) -> Any:
    """A cell as the value its attribute wants, or as it came: the attribute's own check then says what is wrong."""
    if not isinstance(given, str):
        return given
    text = given.strip()
    if kind == customer_pb2.ATTRIBUTE_TYPE_NUMBER and _NUMBER.fullmatch(text):
        return float(text)
    if kind == customer_pb2.ATTRIBUTE_TYPE_BOOLEAN:
        return (_YES | _NO).get(text.lower(), text)
    return text


def _put(target: str) -> Put:
    *parents, (last, _) = steps(target)
    parse = _parser(last)

    def put(customer: customer_pb2.Customer, given: Any) -> None:
        at: Any = customer
        for field, place in parents:
            at = _item(getattr(at, field.name), place) if field.is_repeated else getattr(at, field.name)
        if last.is_repeated:
            getattr(at, last.name).extend(parse(one) for one in several(given))
            return
        value, before = parse(given), getattr(at, last.name)
        if at.HasField(last.name) if last.has_presence else before:
            _require_same(before, value)
        elif last.has_presence:
            before.CopyFrom(value)
        else:
            setattr(at, last.name, value)

    return put


def _require_same(before: Any, value: Any) -> None:
    if before != value:
        raise Mistake("contradicts another column that says the same field; say in `mapping` which one counts")


def _merged(message: M, given: Any) -> M:
    found: list[Violation] = []
    codec.merge_json(message, given, "", found)
    if found:
        raise Mistake(found[0].reason)
    return message


def _item(items: Any, place: int) -> Any:
    while len(items) <= place:
        items.add()
    return items[place]


def _parser(field: FieldDescriptor) -> Callable[[Any], Any]:
    """How the value of a column becomes one value of the field; the parser raises `Mistake`."""
    if field.message_type is not None:
        return lambda given: _merged(date_pb2.Date(), given)
    parse, known = text_parser(field), _known(field)
    if not known:
        return lambda given: parse(text_of(given))
    return lambda given: parse(known.get(text_of(given).lower(), text_of(given)))


def _known(field: FieldDescriptor) -> dict[str, str]:
    """What people write for the values of an enum or a boolean."""
    if field.enum_type is not None:
        return {name.lower(): name for name in enum_names(field.enum_type).values()} | _WORDS.get(field.name, {})
    words = (_YES | _NO) if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else {}
    return {word: str(meant).lower() for word, meant in words.items()}


def text_of(given: Any) -> str:
    """A single value as text; raises `Mistake` where it is a list or an object."""
    if not isinstance(given, str | int | float):
        raise Mistake("must be a single value, not a list or an object")
    if isinstance(given, float):
        given = json_number(given)  # 13800138000.0 is a phone number that went through a table
    return str(given).strip()


# --- several values in one cell --------------------------------------------------------------------------------------


def several(given: Any) -> list[Any]:
    """The values of a cell that may hold several: with semicolons between, or as a JSON list."""
    if not isinstance(given, str):
        return given if isinstance(given, list) else [given]
    return _json_texts(given.strip()) or [part.strip() for part in re.split("[;；]", given) if part.strip()]


def _json_texts(text: str) -> list[str]:
    if not text.startswith('["'):
        return []
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []  # a text that only begins like a list
    return found if all(isinstance(one, str) for one in found) else []


def one_cell(values: Sequence[str]) -> str:
    """Texts as one cell that is read as the same texts: as a JSON list where semicolons would not do."""
    text = "; ".join(values)
    return text if several(text) == list(values) else orjson.dumps(list(values)).decode()
