"""From the columns of a file to the fields of a customer: what is meant, guessed where nobody says, and carried out.

A target is the path of a field: `names.full`, `phones[1].number`, `birthday`, `attributes.plan`. Without an index the
first item of a list is meant; lists of texts take several in one cell, with semicolons between.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from crm.customer.v1 import customer_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from chassis import codec
from chassis.codec.scalars import Mistake, enum_names, text_parser
from chassis.errors import Invalid, Violation
from customer.rules import names

Attributes = Mapping[str, customer_pb2.Attribute]
Put = Callable[[customer_pb2.Customer, Any], None]
_STEP = re.compile(r"([a-z_]+)(?:\[([0-9])\])?")
_TARGETS = frozenset(
    "kind names documents phones emails addresses birthday gender interests service_numbers language_code "
    "time_zone".split()
)
_YES = {"true": True, "yes": True, "y": True, "1": True, "是": True}
_NO = {"false": False, "no": False, "n": False, "0": False, "否": False}
_WORDS = {
    "gender": {"f": "FEMALE", "m": "MALE", "女": "FEMALE", "男": "MALE", "woman": "FEMALE", "man": "MALE"},
    "kind": {"individual": "PERSON", "个人": "PERSON", "company": "ORGANIZATION", "organisation": "ORGANIZATION"},
}
# What columns are called in the files people have, folded as `names.fold` does.
_CALLED = {
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


@dataclass(frozen=True)
class Plan:
    """How rows become customers: a function for each column, and which column a field came from."""

    puts: Mapping[str, Put]
    columns: Mapping[str, str]


def guess(columns: Iterable[str], attributes: Attributes) -> dict[str, str]:
    """A target for each column whose name says what it is; no target is given twice."""
    found: dict[str, str] = {}
    for column in columns:
        target = _guess(column, attributes)
        if target and target not in found.values():
            found[column] = target
    return found


def _guess(column: str, attributes: Attributes) -> str:
    if not _fault(column, attributes):
        return column
    folded = names.fold(column)
    by_label = {names.fold(one.label): f"attributes.{key}" for key, one in attributes.items()}
    return _GUESSES.get(folded) or by_label.get(folded) or by_label.get(names.fold(column.replace("_", " "))) or (
        f"attributes.{column}" if column in attributes else ""
    )  # fmt: skip


def check(mapping: Mapping[str, str], attributes: Attributes) -> None:
    """Raises `Invalid` naming each column whose target is no field that may be imported."""
    faults = {column: _fault(target, attributes) for column, target in mapping.items()}
    targets = list(mapping.values())
    for column, target in mapping.items():
        if not faults[column] and targets.count(target) > 1:
            faults[column] = f"{target} is the target of several columns"
    found = [Violation(f'mapping["{column[:60]}"]', fault) for column, fault in faults.items() if fault]
    if found:
        raise Invalid(found)


def _fault(target: str, attributes: Attributes) -> str:
    """What is wrong with a target; empty where nothing is."""
    name, _, key = target.partition(".")
    if name == "attributes":
        return "" if key in attributes else f"there is no attribute {key[:60]!r}"
    try:
        steps(target)
    except Mistake as mistake:
        return str(mistake)
    return ""


@cache
def steps(target: str) -> tuple[tuple[FieldDescriptor, int], ...]:
    """The fields a target leads through, each with its place in a list; raises `Mistake` where it leads nowhere."""
    found: list[tuple[FieldDescriptor, int]] = []
    at: Any = customer_pb2.Customer.DESCRIPTOR
    for part in target.split("."):
        step = _STEP.fullmatch(part)
        field: Any = at.fields_by_name.get(step[1]) if step and at is not None else None
        if step is None or field is None or (not found and field.name not in _TARGETS):
            raise Mistake(f"{target[:60]} is no field of a customer that can be imported")
        found.append((field, int(step[2] or 0)))
        at = field.message_type
    if at is not None and at.full_name != "google.type.Date":
        raise Mistake(f"{target[:60]} is not a single value")
    return tuple(found)


# --- carrying it out -------------------------------------------------------------------------------------------------


def plan(mapping: Mapping[str, str], attributes: Attributes) -> Plan:
    """The functions of a checked mapping."""
    puts = {column: _attribute(target, attributes) or _put(target) for column, target in mapping.items()}
    return Plan(puts, {_indexed(target): column for column, target in mapping.items()})


def _indexed(target: str) -> str:
    """The path as violations write it: `phones[0].number`."""
    if target.startswith("attributes."):
        return f'attributes["{target.partition(".")[2]}"]'
    *parents, (last, _) = steps(target)
    return ".".join([*(f"{one.name}[{at}]" if one.is_repeated else one.name for one, at in parents), last.name])


def _attribute(target: str, attributes: Attributes) -> Put | None:
    name, _, key = target.partition(".")
    if name != "attributes":
        return None
    kind = attributes[key].type

    def put(customer: customer_pb2.Customer, given: Any) -> None:
        _merge(customer.attributes[key], _typed(kind, given))

    return put


def _typed(kind: int, given: Any) -> Any:
    """A cell as the value its attribute wants, or as it came: the attribute's own check then says what is wrong."""
    if not isinstance(given, str):
        return given
    text = given.strip()
    if kind == customer_pb2.ATTRIBUTE_TYPE_NUMBER and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", text):
        return float(text)
    if kind == customer_pb2.ATTRIBUTE_TYPE_BOOLEAN:
        return (_YES | _NO).get(text.lower(), text)
    return text


def _put(target: str) -> Put:
    *parents, (last, _) = steps(target)
    parse = _scalar(last)

    def put(customer: customer_pb2.Customer, given: Any) -> None:
        at: Any = customer
        for field, place in parents:
            at = _item(getattr(at, field.name), place) if field.is_repeated else getattr(at, field.name)
        if parse is None:
            _merge(getattr(at, last.name), given)
        elif last.is_repeated:
            getattr(at, last.name).extend(parse(one) for one in _several(given))
        else:
            setattr(at, last.name, parse(given))

    return put


def _merge(message: Message, given: Any) -> None:
    found: list[Violation] = []
    codec.merge_json(message, given, "", found)
    if found:
        raise Mistake(found[0].reason)


def _item(items: Any, place: int) -> Any:
    while len(items) <= place:
        items.add()
    return items[place]


def _several(given: Any) -> list[Any]:
    if not isinstance(given, str):
        return given if isinstance(given, list) else [given]
    return [part.strip() for part in re.split("[;；]", given) if part.strip()]


def _scalar(field: FieldDescriptor) -> Callable[[Any], Any] | None:
    if field.message_type is not None:
        return None
    parse = text_parser(field)
    if field.enum_type is None:
        return lambda given: parse(given.strip() if isinstance(given, str) else str(given))
    known = {name.lower(): name for name in enum_names(field.enum_type).values()} | _WORDS.get(field.name, {})
    return lambda given: parse(known.get(str(given).strip().lower(), str(given).strip()))


def customer_of(row: Mapping[str, Any], how: Plan) -> customer_pb2.Customer:
    """The customer a row describes, not yet normalised; raises `Invalid` naming each column that cannot be read.

    Empty cells say nothing. Where no column says the kind, it is a person, and a document is a national identity
    document; where none holds the whole name, it is made of family and given name.
    """
    if isinstance(row.get("names"), list):
        return _whole(row)
    customer, found = customer_pb2.Customer(), []
    for column, put in how.puts.items():
        given = row.get(column)
        if given is None or (isinstance(given, str) and not given.strip()):
            continue
        try:
            put(customer, given)
        except (Mistake, AttributeError, TypeError) as error:
            found.append(Violation(column, str(error) if isinstance(error, Mistake) else "is not of the right form"))
    if found:
        raise Invalid(found)
    _complete(customer)
    return customer


def _whole(row: Mapping[str, Any]) -> customer_pb2.Customer:
    """A customer in the form the API and the JSON export write; what the service sets itself is left out."""
    given = {name: value for name, value in row.items() if name not in customer_pb2.Customer.DESCRIPTOR.fields_by_name}
    taken = {name: value for name, value in row.items() if name in _TARGETS or name == "attributes"}
    customer = codec.from_json(customer_pb2.Customer, taken | given)
    _complete(customer)
    return customer


def _complete(customer: customer_pb2.Customer) -> None:
    if not customer.kind:
        customer.kind = customer_pb2.CUSTOMER_KIND_PERSON
    for name in customer.names:
        if not name.full:
            gap = "" if names.is_chinese(name.family or " ") else " "
            parts = (name.family, name.given) if not gap else (name.given, name.family)
            name.full = gap.join(filter(None, parts))
    for document in customer.documents:
        if not document.kind:
            document.kind = customer_pb2.DOCUMENT_KIND_NATIONAL_ID


def by_column(error: Invalid, how: Plan) -> Invalid:
    """Violations with the columns their fields came from."""
    return Invalid(Violation(how.columns.get(one.field, one.field), one.reason) for one in error.violations)
