"""Messages as JSON Schema (2020-12): types, rules and comments read from their contracts."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import crm
from buf.validate import validate_pb2
from crm.options.v1 import options_pb2
from google.api import field_behavior_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chassis import codec, contract
from chassis.codec.scalars import is_map, map_fields

Schema = dict[str, Any]
PREFIX = "#/components/schemas/"
_DIGITS = {"type": "string", "pattern": "^-?[0-9]+$"}
_SPECIAL: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time", "examples": ["2026-05-01T09:30:00Z"]},
    "google.protobuf.Duration": {"type": "string", "examples": ["1.5s"]},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["names,phones"]},
    "google.protobuf.Value": {},
    "google.type.Date": {"type": "string", "format": "date", "examples": ["1990-02-28"]},
    "google.type.Decimal": {"type": "string", "examples": ["12.50"]},
    "google.type.Money": {
        "type": "object",
        "required": ["currency_code", "amount"],
        "properties": {"currency_code": {"type": "string"}, "amount": {"type": "string"}},
        "examples": [{"currency_code": "CNY", "amount": "12.50"}],
    },
}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.CPPTYPE_INT64: _DIGITS,
    FieldDescriptor.CPPTYPE_UINT64: _DIGITS,
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}
_STRING_RULES = {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern"}
_NUMBER_RULES = {"gte": "minimum", "gt": "exclusiveMinimum", "lte": "maximum", "lt": "exclusiveMaximum"}
_LIST_RULES = {"min_items": "minItems", "max_items": "maxItems", "unique": "uniqueItems"}


def name_of(descriptor: Descriptor) -> str:
    """The name of a message's schema: `customer.v1.Customer`."""
    return descriptor.full_name.removeprefix("crm.")


def reference(descriptor: Descriptor) -> Schema:
    """Where a message's schema stands."""
    special = _SPECIAL.get(descriptor.full_name)
    return dict(special) if special is not None else {"$ref": PREFIX + name_of(descriptor)}


def message(descriptor: Descriptor, *, without: frozenset[str] = frozenset(), partial: bool = False) -> Schema:
    """The schema of a message; `partial` leaves every field optional, as a patch does."""
    fields = [one for one in descriptor.fields if one.name not in without]
    schema: Schema = {"type": "object", "properties": {one.name: field(one) for one in fields}}
    needed = [one.name for one in fields if _required(one)]
    if needed and not partial:
        schema["required"] = needed
    return _described(schema, descriptor.full_name)


def field(one: FieldDescriptor) -> Schema:
    """The schema of a field with its rules, its comment and its class."""
    schema = _described(_shape(one), one.full_name) | ({"readOnly": True} if _set_by_service(one) else {})
    shown = options_pb2.DataClass.Name(contract.data_class(one)).removeprefix("DATA_CLASS_")
    return schema | ({"x-data-class": shown} if shown in ("PERSONAL", "SENSITIVE") else {})


def _shape(one: FieldDescriptor) -> Schema:
    rules = _rules(one)
    if is_map(one):
        _, value = map_fields(one)
        names = _renamed(rules.map.keys.string, _STRING_RULES)
        keys = {"propertyNames": names} if names else {}
        return {"type": "object", "additionalProperties": _value(value, rules.map.values)} | keys | _most(rules)
    if one.is_repeated:
        items = _value(one, rules.repeated.items)
        return {"type": "array", "items": items} | _renamed(rules.repeated, _LIST_RULES)
    return _value(one, rules)


def _most(rules: Any) -> Schema:
    return {"maxProperties": rules.map.max_pairs} if rules.map.HasField("max_pairs") else {}


def _value(one: FieldDescriptor, rules: Any) -> Schema:
    if one.message_type is not None:
        return reference(one.message_type)
    if one.enum_type is not None:
        refused = set(rules.enum.not_in)
        names = [name for number, name in codec.enum_names(one.enum_type).items() if number not in refused]
        return {"type": "string", "enum": names}
    if one.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    return _SCALARS[one.cpp_type] | _renamed(rules.string, _STRING_RULES) | _renamed(rules.int32, _NUMBER_RULES)


def _renamed(rules: Any, names: dict[str, str]) -> Schema:
    return {names[field.name]: value for field, value in rules.ListFields() if field.name in names}


def _rules(one: FieldDescriptor) -> Any:
    options: Any = one.GetOptions()
    return options.Extensions[validate_pb2.field]


def _set_by_service(one: FieldDescriptor) -> bool:
    options: Any = one.GetOptions()
    return field_behavior_pb2.OUTPUT_ONLY in options.Extensions[field_behavior_pb2.field_behavior]


def _required(one: FieldDescriptor) -> bool:
    rules = _rules(one)
    if rules.required or rules.repeated.min_items > 0 or 0 in rules.enum.not_in:
        return True
    return not one.is_repeated and (rules.string.min_len > 0 or not re.search(rules.string.pattern, ""))


def _described(schema: Schema, full_name: str) -> Schema:
    text = comments().get(full_name, "")
    return schema | {"description": text} if text and "$ref" not in schema else schema


@cache
def comments() -> dict[str, str]:
    """What the contracts' comments say of each message, field, service and operation, by full name."""
    # A package without `__init__` may lie in several places; the descriptors are beside the generated one.
    path = next(one for part in crm.__path__ if (one := Path(part).parent / "contracts.binpb").exists())
    found: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file:
        for location in file.source_code_info.location:
            if location.leading_comments:
                found[_named(file, tuple(location.path))] = " ".join(location.leading_comments.split())
    return found


_CHILDREN: dict[str, dict[int, str]] = {
    "FileDescriptorProto": {4: "message_type", 5: "enum_type", 6: "service"},
    "DescriptorProto": {2: "field", 3: "nested_type", 4: "enum_type"},
    "EnumDescriptorProto": {2: "value"},
    "ServiceDescriptorProto": {2: "method"},
}


def _named(file: Any, path: tuple[int, ...]) -> str:
    """The full name of what a source location's path of field numbers and indexes leads to."""
    at, names = file, [file.package]
    for number, index in zip(path[::2], path[1::2], strict=False):
        step = _CHILDREN.get(at.DESCRIPTOR.name, {}).get(number)
        if step is None:
            return ""
        at = getattr(at, step)[index]
        names.append(at.name)
    return ".".join(names)
