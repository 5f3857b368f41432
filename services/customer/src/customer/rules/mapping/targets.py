"""What a column can mean: a target said by the caller and checked, or guessed from the column's name."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from crm.customer.v1 import customer_pb2
from google.protobuf.descriptor import FieldDescriptor

from chassis.codec.scalars import Mistake
from chassis.errors import Invalid, Violation
from customer.rules import names

Attributes = Mapping[str, customer_pb2.Attribute]
NUMBER = "customer_number"  # whose record a row changes
LEFT_OUT = "left_out"  # what the customer has beyond the row
TARGETS = frozenset(
    "kind names documents phones emails addresses birthday gender interests service_numbers language_code "
    "time_zone".split()
)
# Fields of several values, which records in the form of the API hold under their own name.
WHOLE = frozenset("names documents phones emails addresses attributes".split())
_STEP = re.compile(r"([a-z_]+)(?:\[([0-9]{1,2})\])?")
# What columns are called in the files people have, folded as `names.fold` does.
_CALLED = {
    NUMBER: "customer number|customer no|客户编号|客户号|客户号码",
    "names.full": "name|full name|customer name|display name|姓名|客户姓名|名称|客户名称",
    "names.family": "family name|last name|surname|姓",
    "names.given": "given name|first name|forename|名",
    "kind": "kind|customer kind|customer type|客户类型",
    "phones.number": "phone|phone number|mobile|mobile phone|mobile number|telephone|tel|手机|手机号|电话|联系电话",
    "phones[1].number": "phone 2|second phone|home phone|work phone|other phone|固定电话",
    "emails.address": "email|e mail|email address|mail|邮箱|电子邮箱|电子邮件",
    "documents.number": "document|document number|id number|national id|identity number|证件号|身份证|身份证号",
    "birthday": "birthday|birth date|date of birth|dob|生日|出生日期",
    "gender": "gender|sex|性别",
    "addresses.postal_address.address_lines": "address|street|street address|地址|联系地址",
    "addresses.postal_address.locality": "city|town|locality|城市",
    "addresses.postal_address.administrative_area": "state|province|region|省|省份",
    "addresses.postal_address.postal_code": "postcode|postal code|zip|zip code|邮编|邮政编码",
    "addresses.postal_address.region_code": "country|country code|国家",
    "service_numbers": "service number|service numbers|account number|line number|customer id|customerid|业务号码",
    "interests": "interests|hobbies|兴趣|爱好",
    "language_code": "language|language code|语言",
    "time_zone": "time zone|timezone|时区",
}
_GUESSES = {name: target for target, called in _CALLED.items() for name in called.split("|")}


def guess(columns: Iterable[str], attributes: Attributes, *, updating: bool = False) -> dict[str, str]:
    """A target for each column whose name says what it is; no target is given twice.

    With `updating` a column may also hold the customer's number, and what the row leaves out.
    """
    found: dict[str, str] = {}
    for column in columns:
        target = _guess(column, attributes, updating)
        if target and target not in found.values():
            found[column] = target
    return found


def _guess(column: str, attributes: Attributes, updating: bool) -> str:
    if not _fault(column, attributes, updating):
        return column
    if column in customer_pb2.Customer.DESCRIPTOR.fields_by_name:
        return ""  # what the service sets itself: `customer_id` is nobody's service number
    folded = names.fold(column)
    by_label = {names.fold(one.label): f"attributes.{key}" for key, one in attributes.items()}
    target = _GUESSES.get(folded) or by_label.get(folded) or by_label.get(names.fold(column.replace("_", " "))) or (
        f"attributes.{column}" if column in attributes else ""
    )  # fmt: skip
    return "" if target == NUMBER and not updating else target


def of_keys(
    keys: Iterable[str], given: Mapping[str, str], attributes: Attributes, *, updating: bool = False
) -> dict[str, str]:
    """A target for each key of a JSON record that has one.

    The API's own names mean themselves; others what the caller's mapping says, or, where there is none, the guess.
    """
    found = {}
    own_names = WHOLE | TARGETS | ({NUMBER, LEFT_OUT} if updating else set())
    for key in keys:
        named = key if key in own_names else ""
        target = given.get(key) or named or ("" if given else _guess(key, attributes, updating))
        if target:
            found[key] = target
    return found


def check(mapping: Mapping[str, str], attributes: Attributes, *, updating: bool = False) -> None:
    """Raises `Invalid` naming each column whose target is no field that may be imported."""
    faults = {column: _fault(target, attributes, updating) for column, target in mapping.items()}
    targets = list(mapping.values())
    for column, target in mapping.items():
        if not faults[column] and targets.count(target) > 1:
            faults[column] = f"{target} is the target of several columns"
    found = [Violation(f'mapping["{column[:60]}"]', fault) for column, fault in faults.items() if fault]
    if found:
        raise Invalid(found)


def _fault(target: str, attributes: Attributes, updating: bool) -> str:
    """What is wrong with a target; empty where nothing is."""
    name, _, key = target.partition(".")
    if name == "attributes":
        return "" if key in attributes else f"there is no attribute {key[:60]!r}"
    if updating and target in (NUMBER, LEFT_OUT):
        return ""
    try:
        found = steps(target)
    except Mistake as mistake:
        return str(mistake)
    return "" if found[0][0].name in TARGETS else f"{target[:60]} is no field of a customer that can be imported"


@cache
def steps(target: str) -> tuple[tuple[FieldDescriptor, int], ...]:
    """The fields a target leads through, each with its place in a list; raises `Mistake` where it leads nowhere."""
    found: list[tuple[FieldDescriptor, int]] = []
    at: Any = customer_pb2.Customer.DESCRIPTOR
    for part in target.split("."):
        step = _STEP.fullmatch(part)
        field: Any = at.fields_by_name.get(step[1]) if step and at is not None else None
        if step is None or field is None:
            raise Mistake(f"{target[:60]} is no field of a customer that can be imported")
        found.append((field, int(step[2] or 0)))
        at = field.message_type
    if at is not None and at.full_name != "google.type.Date":
        raise Mistake(f"{target[:60]} is not a single value")
    return tuple(found)
