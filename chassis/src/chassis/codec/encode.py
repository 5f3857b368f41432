"""Messages as dictionaries: the walk both faces share, compiled once for every message type."""

from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis.codec import scalars
from chassis.codec.scalars import Convert, Face
from chassis.codec.special import SPECIAL

Finish = Callable[[Message, dict[str, Any]], None] | None


@cache
def encoder(descriptor: Descriptor, face: Face, finish: Finish = None) -> Convert:
    """The function that writes a message of this type; `finish` may add to what it wrote."""
    special = SPECIAL.get(descriptor.full_name)
    if special is not None:
        return special.to_document if face == "document" else special.to_json
    table: dict[int, tuple[str, Convert | None]] = {}
    defaults = _json_defaults(descriptor) if face == "json" else {}

    def encode(message: Message) -> dict[str, Any]:
        # Filled at the first use, so that a message type may hold itself.
        if not table:
            table.update(
                {field.number: (field.name, _field_encoder(field, face, finish)) for field in descriptor.fields}
            )
        out = defaults.copy()
        for field, value in message.ListFields():
            name, convert = table[field.number]
            out[name] = value if convert is None else convert(value)
        if finish is not None:
            finish(message, out)
        return out

    return encode


def _json_defaults(descriptor: Descriptor) -> dict[str, Any]:
    shown = (field for field in descriptor.fields if not field.has_presence)
    return {field.name: scalars.json_default(field) for field in shown}


def _field_encoder(field: FieldDescriptor, face: Face, finish: Finish) -> Convert | None:
    if scalars.is_map(field):
        return _map_encoder(field, face, finish)
    one = encoder(field.message_type, face, finish) if field.message_type is not None else scalars.encoder(field, face)
    if not field.is_repeated:
        return one
    return list if one is None else lambda items: [one(item) for item in items]


def _map_encoder(field: FieldDescriptor, face: Face, finish: Finish) -> Convert:
    key_field, value_field = scalars.map_fields(field)
    name = scalars.map_key(key_field, face)
    one = _field_encoder(value_field, face, finish)
    if one is None:
        return lambda entries: {name(key): value for key, value in entries.items()}
    return lambda entries: {name(key): one(value) for key, value in entries.items()}
