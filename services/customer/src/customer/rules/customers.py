"""What makes a customer: normalised on the way in, checked as a whole, changed field by field."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from zoneinfo import available_timezones

from crm.customer.v1 import customer_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.type import date_pb2

from chassis.errors import Conflict, Invalid, Violation
from customer.rules import identifiers

CHANGEABLE = frozenset(
    "names documents phones emails addresses birthday gender interests service_numbers attributes language_code "
    "time_zone".split()
)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ZONES = frozenset(available_timezones())


def register(
    given: customer_pb2.Customer, *, customer_id: str, serial: int, source: str, now: datetime, region: str
) -> customer_pb2.Customer:
    """A new customer of what was given; raises `Invalid` naming every field that cannot stand."""
    customer = customer_pb2.Customer()
    customer.CopyFrom(given)
    normalize(customer, now=now, region=region)
    customer.customer_id = customer_id
    customer.customer_number = identifiers.customer_number(serial)
    customer.version = 1
    customer.status = customer_pb2.CUSTOMER_STATUS_ACTIVE
    customer.source = source
    customer.create_time.FromDatetime(now)
    customer.update_time.FromDatetime(now)
    return customer


def update(
    stored: customer_pb2.Customer, given: customer_pb2.Customer, mask: FieldMask, *, now: datetime, region: str
) -> tuple[customer_pb2.Customer, list[str]]:
    """The customer after a change, and the fields that differ; raises `Invalid`, or `Conflict` when archived."""
    _require_active(stored)
    customer = customer_pb2.Customer()
    customer.CopyFrom(stored)
    _assign(customer, given, mask.paths)
    normalize(customer, now=now, region=region)
    changed = [name for name in sorted(CHANGEABLE) if _differs(customer, stored, name)]
    if changed:
        customer.version += 1
        customer.update_time.FromDatetime(now)
    return customer, changed


def archive(stored: customer_pb2.Customer, *, now: datetime) -> customer_pb2.Customer:
    """The customer with its record closed; raises `Conflict` when it already is."""
    _require_active(stored)
    customer = customer_pb2.Customer()
    customer.CopyFrom(stored)
    customer.status = customer_pb2.CUSTOMER_STATUS_ARCHIVED
    customer.version += 1
    customer.update_time.FromDatetime(now)
    return customer


def _require_active(stored: customer_pb2.Customer) -> None:
    if stored.status == customer_pb2.CUSTOMER_STATUS_ARCHIVED:
        raise Conflict("this customer's record is archived and takes no more changes", reason="ARCHIVED")


def require_changeable(mask: FieldMask) -> None:
    """Raises `Invalid` when a mask names nothing, or what nobody may change."""
    wrong = [one for one in mask.paths if one.split(".")[0] not in CHANGEABLE or not _whole(one)]
    if wrong or not mask.paths:
        reason = f"cannot change {', '.join(wrong)[:200]}" if wrong else "names no field"
        raise Invalid([Violation("update_mask", reason)])


def _assign(customer: customer_pb2.Customer, given: customer_pb2.Customer, paths: Iterable[str]) -> None:
    for path in paths:
        name, _, key = path.partition(".")
        if key:
            _assign_attribute(customer, given, key)
        else:
            customer.ClearField(name)
            _copy(customer, given, name)


def _whole(path: str) -> bool:
    name, _, rest = path.partition(".")
    return not rest or (name == "attributes" and "." not in rest)


def _assign_attribute(customer: customer_pb2.Customer, given: customer_pb2.Customer, key: str) -> None:
    if key in given.attributes:
        customer.attributes[key].CopyFrom(given.attributes[key])
    elif key in customer.attributes:
        del customer.attributes[key]


def _copy(customer: customer_pb2.Customer, given: customer_pb2.Customer, name: str) -> None:
    part = customer_pb2.Customer()
    mask = FieldMask(paths=[name])
    mask.MergeMessage(given, part, True, True)
    customer.MergeFrom(part)


def _differs(one: customer_pb2.Customer, other: customer_pb2.Customer, name: str) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


# --- normalisation ---------------------------------------------------------------------------------------------------


def normalize(customer: customer_pb2.Customer, *, now: datetime, region: str) -> None:
    """Brings every identifier into its one form, in place; raises `Invalid` naming each that has none."""
    found: list[Violation] = []
    found += _names(customer)
    found += _each("phones", "number", customer.phones, lambda text: identifiers.normalize_phone(text, region=region),
                   "is not a phone number in any country's form")  # fmt: skip
    found += _each("emails", "address", customer.emails, identifiers.normalize_email, "is not an e-mail address")
    found += _documents(customer)
    numbers = [identifiers.normalize_service_number(one) for one in customer.service_numbers]
    customer.service_numbers[:] = dict.fromkeys(numbers)
    found += _birthday(customer, now.date())
    if customer.time_zone and customer.time_zone not in _ZONES:
        found.append(Violation("time_zone", "is not a time zone of the IANA database, such as Asia/Shanghai"))
    if found:
        raise Invalid(found)


def _names(customer: customer_pb2.Customer) -> Iterator[Violation]:
    for index, name in enumerate(customer.names):
        name.full = " ".join(name.full.split())
        if not name.full:  # spaces of other scripts, which the contract's pattern does not know as such
            yield Violation(f"names[{index}].full", "is empty")


def _each(
    field: str, inner: str, items: Iterable[object], normal: Callable[[str], str | None], reason: str
) -> Iterator[Violation]:
    for index, item in enumerate(items):
        value = normal(getattr(item, inner))
        if value is None:
            yield Violation(f"{field}[{index}].{inner}", reason)
        else:
            setattr(item, inner, value)


def _documents(customer: customer_pb2.Customer) -> Iterator[Violation]:
    for index, document in enumerate(customer.documents):
        document.number = identifiers.normalize_document(document.number)
        if len(document.number) < 3:
            yield Violation(f"documents[{index}].number", "has fewer than three characters")
        elif _chinese_id(document) and not _check_digit_holds(document.number):
            yield Violation(f"documents[{index}].number", "fails the check digit of a Chinese identity number")
        if document.HasField("expiry_date") and _date(document.expiry_date) is None:
            yield Violation(f"documents[{index}].expiry_date", "is not a date that exists")


def _chinese_id(document: customer_pb2.IdentityDocument) -> bool:
    return document.kind == customer_pb2.DOCUMENT_KIND_NATIONAL_ID and document.region_code in ("", "CN")


def _check_digit_holds(number: str) -> bool:
    """The check digit of GB 11643, ISO 7064 MOD 11-2, for numbers of 18 places; others are not judged."""
    if not re.fullmatch(r"[0-9]{17}[0-9X]", number):
        return True
    total = sum(int(digit) * weight for digit, weight in zip(number, _ID_WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == number[17]


def _birthday(customer: customer_pb2.Customer, today: date) -> Iterator[Violation]:
    if customer.HasField("birthday"):
        day = _date(customer.birthday)
        if day is None:
            yield Violation("birthday", "is not a date that exists")
        elif day > today:
            yield Violation("birthday", "lies in the future")


def _date(given: date_pb2.Date) -> date | None:
    try:
        return date(given.year, given.month, given.day)
    except ValueError:
        return None
