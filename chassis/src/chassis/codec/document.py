"""Messages as store documents, by converters compiled once for every message type.

Nothing is lost between old and new code: fields a message carries but this contract does not know are kept as
bytes under `_unknown`, and keys of a document, or names of enum values, that this contract does not know ride in the
message's own unknown fields until it is written again.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

import bson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from chassis.codec import scalars
from chassis.codec.encode import encoder
from chassis.codec.special import SPECIAL

M = TypeVar("M", bound=Message)

UNKNOWN = "_unknown"
_RIDER = 2**29 - 1  # the last field number: carries the document keys this contract does not know


def to_document(message: Message) -> dict[str, Any]:
    """The message as a store document: absent and default fields are left out."""
    document: dict[str, Any] = encoder(message.DESCRIPTOR, "document", _keep_unknown)(message)
    return document


def from_document(kind: type[M], document: dict[str, Any]) -> M:
    """The message that `to_document` wrote; keys that begin with an underscore are the store's own."""
    message = kind()
    _into(message, document)
    return message


def _into(message: Message, document: dict[str, Any]) -> None:
    """Fills `message` from a document; keys this contract does not know become its unknown fields."""
    table = _document_table(message.DESCRIPTOR)
    strange: dict[str, Any] = {}
    for name, value in document.items():
        decode = table.get(name)
        if decode is not None:
            try:
                decode(message, value)
            except KeyError:  # the name of an enum's value that only newer code knows
                strange[name] = value
        elif name[:1] != "_":
            strange[name] = value
        elif name == UNKNOWN:
            message.MergeFromString(value)
    if strange:
        message.MergeFromString(scalars.wire_bytes(_RIDER, bson.encode(strange)))


@cache
def _document_table(descriptor: Descriptor) -> dict[str, Callable[[Message, Any], None]]:
    return {field.name: _document_decoder(field) for field in descriptor.fields}


def _document_decoder(field: FieldDescriptor) -> Callable[[Message, Any], None]:
    name = field.name
    if scalars.is_map(field):
        return _document_map(field)
    one = None if field.message_type is not None else scalars.document_decoder(field)
    if field.message_type is not None:
        return _document_messages(field) if field.is_repeated else _document_message(field)
    if field.is_repeated:
        if one is None:
            return lambda message, value: getattr(message, name).extend(value)
        return lambda message, value: getattr(message, name).extend([one(item) for item in value])
    if one is None:
        return lambda message, value: setattr(message, name, value)
    return lambda message, value: setattr(message, name, one(value))


def _document_message(field: FieldDescriptor) -> Callable[[Message, Any], None]:
    name, fill = field.name, _filler(field.message_type)

    def nested(message: Message, value: Any) -> None:
        target = getattr(message, name)
        target.SetInParent()
        fill(target, value)

    return nested


def _document_messages(field: FieldDescriptor) -> Callable[[Message, Any], None]:
    name, fill = field.name, _filler(field.message_type)

    def items(message: Message, value: Any) -> None:
        add = getattr(message, name).add
        for item in value:
            fill(add(), item)

    return items


def _document_map(field: FieldDescriptor) -> Callable[[Message, Any], None]:
    name = field.name
    key_field, value_field = scalars.map_fields(field)
    key = scalars.document_key(key_field)
    if value_field.message_type is not None:
        fill = _filler(value_field.message_type)

        def entries(message: Message, value: Any) -> None:
            target = getattr(message, name)
            for written, item in value.items():
                fill(target[key(written)], item)

        return entries
    one = scalars.document_decoder(value_field) or (lambda value: value)
    return lambda message, value: getattr(message, name).update({key(k): one(v) for k, v in value.items()})


def _filler(descriptor: Any) -> Callable[[Message, Any], None]:
    special = SPECIAL.get(descriptor.full_name)
    return special.from_document if special is not None else _into


def _keep_unknown(message: Message, document: dict[str, Any]) -> None:
    unknown: Any = UnknownFieldSet(message)
    kept = b""
    for field in unknown:
        if field.field_number == _RIDER and isinstance(field.data, bytes):
            document |= {name: value for name, value in bson.decode(field.data).items() if name not in document}
        else:
            kept += scalars.wire_field(field)
    if kept:
        document[UNKNOWN] = kept


def instant(moment: datetime) -> datetime:
    """The moment as every store keeps it: UTC, whole milliseconds."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
