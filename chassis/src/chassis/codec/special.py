"""The message types with a form of their own: instants, dates, decimals, money, masks and free values."""

import re
from calendar import timegm
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from bson.decimal128 import Decimal128
from bson.int64 import Int64
from google.protobuf.message import Message

from chassis.codec.scalars import Convert, Mistake, double, escape_key, json_number, string, unescape_key

MAX_DEPTH = 32
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Special:
    """A message type with its own form on each face. `from_*` fill the message they are given."""

    to_document: Convert
    from_document: Callable[[Message, Any], None]
    to_json: Convert
    from_json: Callable[[Message, Any], None]


def _plain(message: Any) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


def _fill(message: Any, document: dict[str, Any]) -> None:
    for name, value in document.items():
        setattr(message, name, value)


def _timestamp_to_document(message: Any) -> Any:
    seconds, nanos = message.seconds, message.nanos
    if nanos % 1_000_000 or not -62135596800 <= seconds < 253402300800:
        return _plain(message)  # finer than a BSON date, or outside the years 1 to 9999
    return _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)


def _timestamp_from_document(message: Any, value: Any) -> None:
    if isinstance(value, datetime):
        message.seconds, message.nanos = timegm(value.utctimetuple()), value.microsecond * 1000
    else:
        _fill(message, value)


def _timestamp_from_json(message: Any, value: Any) -> None:
    text = string(value)
    try:
        if _INSTANT.fullmatch(text):
            moment = datetime.fromisoformat(text)
            message.seconds, message.nanos = timegm(moment.utctimetuple()), moment.microsecond * 1000
        else:  # finer than microseconds, or no instant at all
            message.FromJsonString(text)
    except (ValueError, OverflowError):
        raise Mistake("must be an instant such as 2026-05-01T09:30:00Z") from None


def _duration_from_json(message: Any, value: Any) -> None:
    try:
        message.FromJsonString(string(value))
    except (ValueError, OverflowError):
        raise Mistake("must be a duration such as 1.5s") from None


def _mask_from_document(message: Any, value: Any) -> None:
    message.paths.extend(value)


def _mask_from_json(message: Any, value: Any) -> None:
    message.paths.extend(path.strip() for path in string(value).split(",") if path.strip())


def _date_to_text(message: Any) -> Any:
    if 0 <= message.year <= 9999 and 0 <= message.month <= 99 and 0 <= message.day <= 99:
        return f"{message.year:04d}-{message.month:02d}-{message.day:02d}"
    return _plain(message)


def _date_from_document(message: Any, value: Any) -> None:
    if isinstance(value, str):
        message.year, message.month, message.day = (int(part) for part in value.split("-"))
    else:
        _fill(message, value)


def _date_from_json(message: Any, value: Any) -> None:
    text = string(value)
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError
        datetime.strptime(text, "%Y-%m-%d")
    except ValueError:
        raise Mistake("must be a date that exists, written YYYY-MM-DD") from None
    _date_from_document(message, text)


def _decimal_to_document(message: Any) -> Any:
    try:
        exact = Decimal128(message.value)
    except (ValueError, ArithmeticError):
        return message.value
    return exact if str(exact) == message.value else message.value


def _decimal_from_json(message: Any, value: Any) -> None:
    if not re.fullmatch(r"[-+]?[0-9]{1,34}(\.[0-9]{1,34})?", string(value)):
        raise Mistake('must be a decimal number in a string, such as "12.50"')
    message.value = value


def _money_amount(message: Any) -> Decimal:
    amount = Decimal(message.units) + Decimal(message.nanos).scaleb(-9)
    return amount if message.nanos % 10_000_000 else amount.quantize(Decimal("0.01"))


def _money_split(message: Any, currency: str, amount: Decimal) -> None:
    units = int(amount)
    message.currency_code, message.units = currency, units
    message.nanos = int((amount - units).scaleb(9))


def _money_to_document(message: Any) -> Any:
    if message.units * message.nanos < 0 or abs(message.nanos) >= 10**9:
        return _plain(message) | {"units": Int64(message.units)}  # no valid amount; kept as it came
    return {"currency_code": message.currency_code, "amount": Decimal128(_money_amount(message))}


def _money_from_document(message: Any, value: Any) -> None:
    if "amount" in value:
        _money_split(message, value["currency_code"], value["amount"].to_decimal())
    else:
        _fill(message, value)


def _money_to_json(message: Any) -> Any:
    return {"currency_code": message.currency_code, "amount": f"{_money_amount(message):f}"}


def _money_from_json(message: Any, value: Any) -> None:
    if not isinstance(value, dict) or set(value) != {"currency_code", "amount"}:
        raise Mistake("must have a currency_code and an amount")
    if not re.fullmatch(r"[A-Z]{3}", string(value["currency_code"])):
        raise Mistake("needs a currency_code of ISO 4217, such as CNY")
    if not re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,9})?", string(value["amount"])):
        raise Mistake('needs an amount in a string, such as "12.50"')
    _money_split(message, value["currency_code"], Decimal(value["amount"]))


def _native(value: Any, number: Convert, key: Convert) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key(name): _native(item, number, key) for name, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_native(item, number, key) for item in value.list_value.values]
    if kind == "number_value":
        return number(value.number_value)
    return None if kind in (None, "null_value") else getattr(value, kind)


def _set_native(value: Any, item: Any, key: Convert, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise Mistake(f"is nested deeper than {MAX_DEPTH}")
    if item is None:
        value.null_value = 0
    elif isinstance(item, bool):
        value.bool_value = item
    elif isinstance(item, str):
        value.string_value = string(item)
    elif isinstance(item, int | float):
        value.number_value = double(item)
    elif isinstance(item, dict):
        value.struct_value.SetInParent()
        for name, inner in item.items():
            _set_native(value.struct_value.fields[key(name)], inner, key, depth + 1)
    else:
        value.list_value.SetInParent()
        for inner in item:
            _set_native(value.list_value.values.add(), inner, key, depth + 1)


def _same(value: Any) -> Any:
    return value


SPECIAL: dict[str, Special] = {
    "google.protobuf.Timestamp": Special(
        _timestamp_to_document, _timestamp_from_document, lambda m: m.ToJsonString(), _timestamp_from_json
    ),
    "google.protobuf.Duration": Special(_plain, _fill, lambda m: m.ToJsonString(), _duration_from_json),
    "google.protobuf.FieldMask": Special(
        lambda m: list(m.paths), _mask_from_document, lambda m: ",".join(m.paths), _mask_from_json
    ),
    "google.protobuf.Value": Special(
        lambda m: _native(m, float, escape_key),
        lambda m, v: _set_native(m, v, unescape_key),
        lambda m: _native(m, json_number, _same),
        lambda m, v: _set_native(m, v, _same),
    ),
    "google.type.Date": Special(_date_to_text, _date_from_document, _date_to_text, _date_from_json),
    "google.type.Decimal": Special(
        _decimal_to_document,
        lambda m, v: setattr(m, "value", str(v)),
        lambda m: m.value,
        _decimal_from_json,
    ),
    "google.type.Money": Special(_money_to_document, _money_from_document, _money_to_json, _money_from_json),
}
