"""Messages as JSON: the proto3 mapping with the contract's own field names.

Enum values are written without their prefix (`PERSON`), `google.type.Date` as `YYYY-MM-DD`, decimals as strings
and `google.protobuf.Value` as what it holds. Reading collects every mistake with its path before it gives up.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis.codec import scalars
from chassis.codec.encode import encoder
from chassis.codec.scalars import Mistake
from chassis.codec.special import MAX_DEPTH, SPECIAL, Special
from chassis.errors import Invalid, Violation

M = TypeVar("M", bound=Message)
Decode = Callable[[Message, Any, str, list[Violation]], None]


def to_json(message: Message) -> dict[str, Any]:
    """The message as a JSON object; fields without presence are always there, others when they are set."""
    value: dict[str, Any] = encoder(message.DESCRIPTOR, "json")(message)
    return value


def from_json(kind: type[M], value: Any) -> M:
    """The message a JSON value describes; raises `Invalid` with every wrong type, range and unknown name."""
    message = kind()
    found: list[Violation] = []
    merge_json(message, value, "", found)
    if found:
        raise Invalid(found)
    return message


def merge_json(message: Message, value: Any, path: str, found: list[Violation]) -> None:
    """Merges a JSON value into `message`; what is wrong is added to `found` with its path."""
    if path.count(".") + path.count("[") > MAX_DEPTH:
        found.append(Violation(path, f"is nested deeper than {MAX_DEPTH}"))
        return
    special = SPECIAL.get(message.DESCRIPTOR.full_name)
    if special is not None:
        _merge_special(special, message, value, path, found)
    elif not isinstance(value, dict):
        found.append(Violation(path, "must be an object"))
    else:
        _merge_object(message, value, path, found)


def _merge_special(special: Special, message: Message, value: Any, path: str, found: list[Violation]) -> None:
    try:
        special.from_json(message, value)
    except Mistake as mistake:
        found.append(Violation(path, str(mistake)))


def _merge_object(message: Message, value: dict[str, Any], path: str, found: list[Violation]) -> None:
    table, nullable = _json_table(message.DESCRIPTOR)
    for name, item in value.items():
        here = f"{path}.{name}" if path else str(name)
        decode = table.get(name)
        if decode is None:
            found.append(Violation(here[:200], "is not a field of this request"))
        elif item is not None or name in nullable:
            decode(message, item, here, found)


@cache
def _json_table(descriptor: Descriptor) -> tuple[dict[str, Decode], frozenset[str]]:
    """Decoders by field name, and the fields for which null is a value instead of an absence."""
    nullable = (field.name for field in descriptor.fields if _holds_value(field))
    return {field.name: _json_decoder(field) for field in descriptor.fields}, frozenset(nullable)


def _holds_value(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == "google.protobuf.Value"


def _json_decoder(field: FieldDescriptor) -> Decode:
    if scalars.is_map(field):
        return _json_map(field)
    if field.is_repeated:
        return _json_list(field)
    if field.message_type is not None:
        return _json_message(field)
    name, parse = field.name, scalars.json_parser(field)

    def scalar(message: Message, value: Any, path: str, found: list[Violation]) -> None:
        try:
            setattr(message, name, parse(value))
        except Mistake as mistake:
            found.append(Violation(path, str(mistake)))

    return scalar


def _json_message(field: FieldDescriptor) -> Decode:
    name = field.name

    def nested(message: Message, value: Any, path: str, found: list[Violation]) -> None:
        target = getattr(message, name)
        target.SetInParent()
        merge_json(target, value, path, found)

    return nested


def _json_list(field: FieldDescriptor) -> Decode:
    name = field.name
    parse = None if field.message_type is not None else scalars.json_parser(field)

    def items(message: Message, value: Any, path: str, found: list[Violation]) -> None:
        if not isinstance(value, list):
            found.append(Violation(path, "must be a list"))
            return
        target = getattr(message, name)
        for index, item in enumerate(value):
            here = f"{path}[{index}]"
            try:
                target.append(parse(item)) if parse else merge_json(target.add(), item, here, found)
            except Mistake as mistake:
                found.append(Violation(here, str(mistake)))

    return items


def _json_map(field: FieldDescriptor) -> Decode:
    name = field.name
    key_field, value_field = scalars.map_fields(field)
    parse_key = scalars.text_parser(key_field)
    parse = None if value_field.message_type is not None else scalars.json_parser(value_field)

    def entries(message: Message, value: Any, path: str, found: list[Violation]) -> None:
        if not isinstance(value, dict):
            found.append(Violation(path, "must be an object"))
            return
        target = getattr(message, name)
        for key, item in value.items():
            here = f'{path}["{key[:60]}"]'
            try:
                if parse:
                    target[parse_key(key)] = parse(item)
                else:
                    merge_json(target[parse_key(key)], item, here, found)
            except Mistake as mistake:
                found.append(Violation(here, str(mistake)))

    return entries
