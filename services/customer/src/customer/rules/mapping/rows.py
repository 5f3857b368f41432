"""Rows as customers: each column's value is put where it belongs; what a row says of a known customer is a change."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crm.customer.v1 import customer_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from chassis.codec.scalars import Mistake
from chassis.errors import Invalid, Violation, invalid
from customer.rules import customers, names
from customer.rules.mapping.puts import Put, putting, several, text_of
from customer.rules.mapping.targets import LEFT_OUT, WHOLE, Attributes, steps

_LISTS = sorted(WHOLE - {"attributes"})


@dataclass(frozen=True)
class Plan:
    """How rows with the same columns are read: each column's target, what puts its value there, and the way back."""

    targets: Mapping[str, str]
    puts: Mapping[str, Put]
    columns: Mapping[str, str]  # by field, as violations write it


@dataclass(frozen=True)
class Said:
    """What a row says of a customer, not yet normalised, and which column said it.

    `left_out` counts, by field, the last values that the customer has and the row does not hold.
    """

    customer: customer_pb2.Customer
    columns: Mapping[str, str]
    left_out: Mapping[str, int]


def plan(targets: Mapping[str, str], attributes: Attributes) -> Plan:
    """The plan of a checked mapping."""
    puts = {column: putting(target, attributes) for column, target in targets.items() if target != LEFT_OUT}
    return Plan(targets, puts, {_indexed(target): column for column, target in targets.items()})


def _indexed(target: str) -> str:
    """The path as violations write it: `phones[0].number`."""
    if target.startswith("attributes."):
        return f'attributes["{target.partition(".")[2]}"]'
    if target in WHOLE or target == LEFT_OUT:
        return target
    *parents, (last, _) = steps(target)
    return ".".join([*(f"{one.name}[{at}]" if one.is_repeated else one.name for one, at in parents), last.name])


def by_column(error: Invalid, columns: Mapping[str, str]) -> Invalid:
    """Violations with the columns their fields came from."""
    return Invalid(Violation(columns.get(one.field, one.field), one.reason) for one in error.violations)


def said(row: Mapping[str, Any], how: Plan) -> Said:
    """What a row says; raises `Invalid` naming each column that cannot be read.

    Empty cells, lists and objects say nothing. Where no column says the kind of a new customer, it is a person, and a
    document is a national identity document; where none holds the whole name, it is made of family and given name.
    """
    customer, left_out, found = customer_pb2.Customer(), dict[str, int](), list[Violation]()
    for column, given in _spoken(row, how):
        try:
            if column in how.puts:
                how.puts[column](customer, given)
            else:
                left_out = dict(map(_count, several(given)))
        except Mistake as mistake:
            found.append(Violation(column, str(mistake)))
        except Invalid as error:
            found += error.violations
    if found:
        raise Invalid(found)
    columns = _closed(customer, how.columns)
    _complete(customer)
    return Said(customer, columns, left_out)


def _spoken(row: Mapping[str, Any], how: Plan) -> Iterator[tuple[str, Any]]:
    for column in how.targets:
        given = row.get(column)
        if given is not None and given not in ([], {}) and not (isinstance(given, str) and not given.strip()):
            yield column, given


def _count(part: Any) -> tuple[str, int]:
    name, _, count = text_of(part).partition(" ")
    if name not in _LISTS or not re.fullmatch("[1-9][0-9]{0,2}", count):
        raise Mistake("must name lists with the number of values left out: phones 2; documents 1")
    return name, int(count)


def _closed(customer: customer_pb2.Customer, columns: Mapping[str, str]) -> Mapping[str, str]:
    """Takes out the items of lists that no cell filled; returns the columns by the places that are left."""
    for name in _LISTS:
        items = getattr(customer, name)
        empty = [place for place, one in enumerate(items) if not one.ByteSize()]
        if empty:
            columns = {_nearer(path, name, empty): column for path, column in columns.items()}
            for place in reversed(empty):
                del items[place]
    return columns


def _nearer(path: str, name: str, empty: Sequence[int]) -> str:
    step = re.match(rf"{name}\[([0-9]+)\]", path)
    if step is None:
        return path
    place = int(step[1])
    return f"{name}[{place - sum(one < place for one in empty)}]{path[step.end() :]}" if place not in empty else ""


def _complete(customer: customer_pb2.Customer) -> None:
    if not customer.kind and not customer.customer_number:
        customer.kind = customer_pb2.CUSTOMER_KIND_PERSON
    for name in customer.names:
        if not name.full:
            gap = "" if names.is_chinese(name.family or " ") else " "
            parts = (name.family, name.given) if not gap else (name.given, name.family)
            name.full = gap.join(filter(None, parts))
    for document in customer.documents:
        if not document.kind:
            document.kind = customer_pb2.DOCUMENT_KIND_NATIONAL_ID


def change(stored: customer_pb2.Customer, what: Said) -> tuple[customer_pb2.Customer, FieldMask]:
    """What a row changes of a customer, as an update takes it; raises `Invalid` where it says another kind.

    A list that the row holds replaces the customer's; the values the row leaves out stay behind it.
    """
    given = customer_pb2.Customer()
    given.CopyFrom(what.customer)
    if given.kind and given.kind != stored.kind:
        raise invalid("kind", "of a customer cannot be changed")
    paths = [field.name for field, _ in given.ListFields() if field.name in customers.CHANGEABLE - {"attributes"}]
    for name in what.left_out.keys() & set(paths):
        items, last = getattr(given, name), getattr(stored, name)[-what.left_out[name] :]
        items.extend([one for one in last if one not in items])
    return given, FieldMask(paths=[*paths, *(f"attributes.{key}" for key in given.attributes)])
