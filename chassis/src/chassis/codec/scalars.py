"""How single values look in a document and in JSON: numbers, text, enums, map keys, and fields nobody declared."""

import base64
import binascii
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from bson.decimal128 import Decimal128
from bson.int64 import Int64
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

Face = Literal["document", "json"]
Convert = Callable[[Any], Any]
_SAFE_INTEGER = 2**53


class Mistake(ValueError):
    """A JSON value that does not fit its field; the text says why."""


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def map_fields(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """The key and the value field of a map."""
    entry: Any = field.message_type
    key, value = entry.fields
    return key, value


# --- scalars ---------------------------------------------------------------------------------------------------------

_LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_WIDE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_ODD_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@cache
def enum_names(enum: EnumDescriptor) -> dict[int, str]:
    """Short names of an enum's values: `PERSON` of CUSTOMER_KIND_PERSON."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix) for value in enum.values}


def enum_name(enum: EnumDescriptor, number: int) -> str:
    """Short name of one value, as documents and JSON write it."""
    return enum_names(enum)[number]


@cache
def enum_numbers(enum: EnumDescriptor) -> dict[str, int]:
    """Numbers by short name."""
    return {name: number for number, name in enum_names(enum).items()}


def encoder(field: FieldDescriptor, face: Face) -> Convert | None:
    """How one scalar of the field is written; None where it is written as it is."""
    if field.enum_type is not None:
        names = enum_names(field.enum_type)
        return lambda number: names.get(number, number)
    if face == "document":
        return _document_encoder(field)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    if field.cpp_type in _WIDE:
        return str
    return json_number if field.cpp_type in _FLOATS else None


def _document_encoder(field: FieldDescriptor) -> Convert | None:
    if field.cpp_type == FieldDescriptor.CPPTYPE_INT64:
        return Int64
    if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
        return lambda value: Int64(value) if value < 2**63 else Decimal128(str(value))
    return None


def document_decoder(field: FieldDescriptor) -> Convert | None:
    """How one scalar of the field is read from a document; None where it is taken as it is."""
    if field.enum_type is not None:
        numbers = enum_numbers(field.enum_type)
        return lambda value: numbers[value] if isinstance(value, str) else value
    if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
        return lambda value: int(value.to_decimal()) if isinstance(value, Decimal128) else value
    return None


def json_default(field: FieldDescriptor) -> Any:
    """What JSON shows for a field without presence that is not set."""
    if is_map(field):
        return {}
    if field.is_repeated:
        return []
    convert = encoder(field, "json")
    return field.default_value if convert is None else convert(field.default_value)


def json_number(value: float) -> Any:
    """A double in JSON: whole numbers without a fraction, the odd ones as the proto3 mapping names them."""
    if math.isfinite(value):
        negative_zero = value == 0 and math.copysign(1, value) < 0
        return int(value) if value.is_integer() and abs(value) < _SAFE_INTEGER and not negative_zero else value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def json_parser(field: FieldDescriptor) -> Convert:
    """How a JSON value becomes the field's scalar; the parser raises `Mistake`."""
    if field.enum_type is not None:
        return _enum_parser(field.enum_type)
    if field.cpp_type in _LIMITS:
        low, high = _LIMITS[field.cpp_type]
        return lambda value: _integer(value, low, high)
    if field.cpp_type in _FLOATS:
        return double
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes
    return _boolean if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else string


def text_parser(field: FieldDescriptor) -> Convert:
    """How text (a path segment, a query parameter, a cell) becomes the field's scalar."""
    parse = json_parser(field)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return lambda text: parse({"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text))
    if field.cpp_type in _FLOATS:
        return lambda text: parse(_number(text))
    if field.cpp_type in _LIMITS:
        return lambda text: parse(int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else text)
    return parse


def _number(text: str) -> Any:
    return float(text) if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?", text) else text


def _enum_parser(enum: EnumDescriptor) -> Convert:
    numbers = enum_numbers(enum)
    known = ", ".join(name for name, number in numbers.items() if number)

    def parse(value: Any) -> int:
        if not isinstance(value, str) or value not in numbers:
            raise Mistake(f"must be one of {known}")
        return numbers[value]

    return parse


def _integer(value: Any, low: int, high: int) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Mistake("must be a whole number")
    if not low <= value <= high:
        raise Mistake(f"must be between {low} and {high}")
    return value


def double(value: Any) -> float:
    """The value when it is a number a double can carry."""
    if isinstance(value, str):
        value = _ODD_NUMBERS.get(value, value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Mistake("must be a number")
    try:
        return float(value)
    except OverflowError:
        raise Mistake("is too large") from None


def string(value: Any) -> str:
    """The value when it is text that UTF-8 can carry."""
    if not isinstance(value, str):
        raise Mistake("must be a string")
    if not value.isascii() and any("\ud800" <= one <= "\udfff" for one in value):
        raise Mistake("holds half a surrogate pair")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Mistake("must be true or false")
    return value


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(string(value), validate=True)
    except binascii.Error:
        raise Mistake("must be base64") from None


# --- map keys --------------------------------------------------------------------------------------------------------


def map_key(field: FieldDescriptor, face: Face) -> Convert:
    """How a map's key is written; a document's keys may hold no dot, dollar sign or NUL."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return lambda key: "true" if key else "false"
    if field.cpp_type != FieldDescriptor.CPPTYPE_STRING:
        return str
    return escape_key if face == "document" else lambda key: key


def document_key(field: FieldDescriptor) -> Convert:
    """How a map's key is read back."""
    return unescape_key if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else text_parser(field)


def escape_key(key: str) -> str:
    """Any string as a key that every store accepts."""
    if key.isalnum():
        return key
    return key.replace("%", "%25").replace(".", "%2E").replace("$", "%24").replace("\0", "%00")


def unescape_key(key: str) -> str:
    """The string `escape_key` was given."""
    if "%" not in key:
        return key
    return key.replace("%00", "\0").replace("%24", "$").replace("%2E", ".").replace("%25", "%")


# --- fields a contract does not know ---------------------------------------------------------------------------------


def wire_bytes(number: int, value: bytes) -> bytes:
    """One length-delimited field in wire form."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def wire_field(field: Any) -> bytes:
    """One entry of an UnknownFieldSet in wire form."""
    tag = _varint(field.field_number << 3 | field.wire_type)
    if field.wire_type == 0:
        return tag + _varint(field.data)
    if field.wire_type == 2:
        return wire_bytes(field.field_number, field.data)
    if field.wire_type == 3:
        return tag + b"".join(map(wire_field, field.data)) + _varint(field.field_number << 3 | 4)
    return tag + int(field.data).to_bytes(8 if field.wire_type == 1 else 4, "little")


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
