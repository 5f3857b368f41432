"""Custom attributes: what a definition must be, and whether a customer's values fit theirs."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any

import re2
from crm.customer.v1 import customer_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from chassis.errors import Conflict, Invalid, Violation, invalid

CHANGEABLE = ("label", "required", "searchable", "pattern", "minimum", "maximum", "options")
LONGEST_TEXT = 1000
_QUIET = re2.Options()
_QUIET.log_errors = False


def define(given: customer_pb2.Attribute, *, now: datetime) -> customer_pb2.Attribute:
    """A new definition; raises `Invalid` where its parts do not fit together."""
    attribute = customer_pb2.Attribute()
    attribute.CopyFrom(given)
    attribute.version = 1
    attribute.create_time.FromDatetime(now)
    attribute.update_time.FromDatetime(now)
    _check_definition(attribute)
    return attribute


def require_changeable(mask: FieldMask) -> None:
    """Raises `Invalid` when a mask names nothing, or what nobody may change."""
    if not mask.paths or not set(mask.paths) <= set(CHANGEABLE):
        raise invalid("update_mask", f"may name {', '.join(CHANGEABLE)}")


def update(
    stored: customer_pb2.Attribute, given: customer_pb2.Attribute, mask: FieldMask, *, now: datetime
) -> customer_pb2.Attribute:
    """The definition after a change; its key and type stay what they are."""
    attribute = customer_pb2.Attribute()
    attribute.CopyFrom(stored)
    for path in mask.paths:
        attribute.ClearField(path)
    mask.MergeMessage(given, attribute, True, True)
    attribute.version += 1
    attribute.update_time.FromDatetime(now)
    _check_definition(attribute)
    return attribute


def _check_definition(attribute: customer_pb2.Attribute) -> None:
    kind = attribute.type
    found = []
    if bool(attribute.options) != (kind == customer_pb2.ATTRIBUTE_TYPE_CHOICE):
        found.append(Violation("options", "belong to an attribute of type CHOICE, which needs them"))
    if attribute.pattern and (kind != customer_pb2.ATTRIBUTE_TYPE_TEXT or _compiled(attribute.pattern) is None):
        found.append(Violation("pattern", "must be a regular expression of an attribute of type TEXT"))
    bounded = attribute.HasField("minimum") or attribute.HasField("maximum")
    if bounded and kind != customer_pb2.ATTRIBUTE_TYPE_NUMBER:
        found.append(Violation("minimum", "and maximum belong to an attribute of type NUMBER"))
    if attribute.HasField("minimum") and attribute.HasField("maximum") and attribute.minimum > attribute.maximum:
        found.append(Violation("minimum", "is greater than maximum"))
    if found:
        raise Invalid(found)


@lru_cache(maxsize=1000)
def _compiled(pattern: str) -> Any:
    # RE2 reads a value once from end to end; the language's own engine can take for ever on a hostile one.
    try:
        return re2.compile(pattern, _QUIET)
    except re2.error:
        return None


def check(
    customer: customer_pb2.Customer,
    definitions: Mapping[str, customer_pb2.Attribute],
    *,
    before: customer_pb2.Customer | None = None,
) -> None:
    """Checks a customer's values; raises `Invalid` with a violation for each that does not fit.

    Of a customer that was there `before`, only what differs is judged: a definition may have become stricter since.
    """
    found = [*_missing(customer, definitions.values(), before)]
    for key, value in customer.attributes.items():
        if before is not None and key in before.attributes and before.attributes[key] == value:
            continue
        reason = _misfit(value, definitions[key]) if key in definitions else "is not a defined attribute"
        if reason:
            found.append(Violation(f'attributes["{key[:60]}"]', reason))
    if found:
        raise Invalid(found)


def _missing(
    customer: customer_pb2.Customer,
    definitions: Iterable[customer_pb2.Attribute],
    before: customer_pb2.Customer | None,
) -> Iterable[Violation]:
    for one in definitions:
        was_there = before is None or one.key in before.attributes
        if one.required and was_there and one.key not in customer.attributes:
            yield Violation(f'attributes["{one.key}"]', "is required")


def _misfit(value: Value, definition: customer_pb2.Attribute) -> str:
    kind, text = definition.type, value.string_value
    if kind == customer_pb2.ATTRIBUTE_TYPE_NUMBER:
        return _number_misfit(value, definition)
    if kind == customer_pb2.ATTRIBUTE_TYPE_BOOLEAN:
        return "" if value.HasField("bool_value") else "must be true or false"
    if not value.HasField("string_value"):
        return "must be text"
    if kind == customer_pb2.ATTRIBUTE_TYPE_DATE:
        return "" if _is_date(text) else "must be a date that exists, written YYYY-MM-DD"
    if kind == customer_pb2.ATTRIBUTE_TYPE_CHOICE:
        return "" if text in definition.options else f"must be one of {', '.join(definition.options)[:200]}"
    return _text_misfit(text, definition.pattern)


def _text_misfit(text: str, pattern: str) -> str:
    if len(text) > LONGEST_TEXT:
        return f"is longer than {LONGEST_TEXT} characters"
    compiled = _compiled(pattern) if pattern else None
    return f"does not match {pattern}" if compiled is not None and not compiled.fullmatch(text) else ""


def _number_misfit(value: Value, definition: customer_pb2.Attribute) -> str:
    if not value.HasField("number_value"):
        return "must be a number"
    if definition.HasField("minimum") and value.number_value < definition.minimum:
        return f"is less than {definition.minimum:g}"
    if definition.HasField("maximum") and value.number_value > definition.maximum:
        return f"is greater than {definition.maximum:g}"
    return ""


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def require_new(existing: customer_pb2.Attribute | None, key: str) -> None:
    """Raises `Conflict` when the key is already defined."""
    if existing is not None:
        raise Conflict(f"the attribute {key} is already defined", reason="ALREADY_EXISTS")
