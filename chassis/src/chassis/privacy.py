"""Shows each caller what it may see: values are masked, or taken out, by the data classes of the contracts."""

from collections.abc import Callable
from functools import cache
from typing import Any

from crm.options.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis import contract
from chassis.errors import Denied
from chassis.identity import Caller

PERSONAL, SENSITIVE = options_pb2.DATA_CLASS_PERSONAL, options_pb2.DATA_CLASS_SENSITIVE
EVERYTHING = frozenset(options_pb2.DataClass.values())
_Change = Callable[[Message, FieldDescriptor], None]


def mask(message: Message, caller: Caller) -> None:
    """Masks in place every value whose class the caller does not see or whose field is hidden from it."""
    if not (EVERYTHING - {0} <= caller.sees) or caller.hides:
        _walk(message, lambda field: not visible(field, caller), _mask_field)


def strip(message: Message, classes: frozenset[int] = frozenset({PERSONAL, SENSITIVE})) -> None:
    """Takes out every value of these classes, in place."""
    _walk(message, lambda field: contract.data_class(field) in classes, lambda one, field: one.ClearField(field.name))


def visible(field: FieldDescriptor, caller: Caller) -> bool:
    """Whether the caller sees this field in clear."""
    return contract.data_class(field) in caller.sees and field.full_name not in caller.hides


def may_change(request: Message, caller: Caller) -> None:
    """Raises `Denied` when an update names a field the caller sees only masked: it would write the mask back."""
    mask_field = request.DESCRIPTOR.fields_by_name.get("update_mask")
    if mask_field is None:
        return
    resource: Any = next(one for one in request.DESCRIPTOR.fields if one.message_type and one is not mask_field)
    for path in request.update_mask.paths:  # type: ignore[attr-defined]
        field = resource.message_type.fields_by_name.get(path.split(".")[0])
        if field is not None and not _all_visible(field, caller):
            raise Denied(f"you may not change {path}: you do not see it in clear", reason="FIELD_HIDDEN")


def _all_visible(field: FieldDescriptor, caller: Caller) -> bool:
    inner = field.message_type.fields if field.message_type is not None and _ours(field.message_type) else ()
    return visible(field, caller) and all(_all_visible(one, caller) for one in inner)


@cache
def _messages_of(descriptor: Descriptor) -> frozenset[str]:
    """The fields to look into: messages with classes of their own."""
    return frozenset(one.name for one in descriptor.fields if one.message_type is not None and _ours(one.message_type))


def _ours(descriptor: Descriptor) -> bool:
    return descriptor.full_name.startswith("crm.") and not descriptor.GetOptions().map_entry


def _walk(message: Message, unwanted: Callable[[FieldDescriptor], bool], change: _Change) -> None:
    inner = _messages_of(message.DESCRIPTOR)
    for field, value in message.ListFields():
        if unwanted(field):
            change(message, field)
        elif field.name in inner:
            for one in value if field.is_repeated else (value,):
                _walk(one, unwanted, change)


def _mask_field(message: Message, field: FieldDescriptor) -> None:
    if field.type != FieldDescriptor.TYPE_STRING:
        message.ClearField(field.name)
    elif field.is_repeated:
        values: Any = getattr(message, field.name)
        values[:] = [masked(value) for value in values]
    else:
        setattr(message, field.name, masked(getattr(message, field.name)))


def masked(value: str) -> str:
    """Enough of a value for a person to confirm it, too little to learn it: `+86•••8000`, `z•••@example.com`, `张•`."""
    name, sign, domain = value.partition("@")
    if sign:
        return f"{name[:1]}•••@{domain}"
    if sum(one.isdigit() for one in value) * 2 > len(value):
        return f"•••{value[-4:]}" if len(value) > 7 else "•••"
    return value[:1] + "•" * min(max(len(value) - 1, 1), 3)
