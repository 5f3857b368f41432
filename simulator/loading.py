"""Files of customers: generated ones, and CSV files of real ones with what the platform has to know to read them."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.people import Person

BROKEN_EVERY = 500
PIECE_ROWS = 200


@dataclass(frozen=True)
class Source:
    """A file to import: its rows, the attributes to define before, and the mapping; empty where the guess will do.

    `people` are the customers whose rows can be taken in, `broken` how many rows cannot.
    """

    header: Sequence[str]
    rows: Iterable[Sequence[str]]
    people: Sequence[Person]
    broken: int = 0
    attributes: Sequence[Mapping[str, Any]] = ()
    mapping: Mapping[str, str] | None = None

    def pieces(self) -> Iterator[bytes]:
        """The file as a channel streams it."""
        waiting = [self.header]
        for row in self.rows:
            waiting.append(row)
            if len(waiting) >= PIECE_ROWS:
                yield _csv(waiting)
                waiting = []
        yield _csv(waiting)


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


# --- generated -------------------------------------------------------------------------------------------------------

_HEADER = ("业务号码", "客户类型", "姓名", "手机", "邮箱", "身份证号", "出生日期", "性别", "城市", "地址", "兴趣")


def generated(people: Sequence[Person]) -> Source:
    """A file as a Chinese operator's back office writes it, with a row here and there that cannot be right."""
    return Source(_HEADER, _with_broken(people), people, broken=len(people) // BROKEN_EVERY)


def _with_broken(people: Sequence[Person]) -> Iterator[Sequence[str]]:
    for number, person in enumerate(people, 1):
        yield _row(person)
        if number % BROKEN_EVERY == 0:
            yield (f"bad{number}", "PERSON", "坏数据", "12345", "not an address", "", "2023-02-30", "", "", "", "")


def _row(person: Person) -> tuple[str, ...]:
    written = (person.as_written(name) for name in ("name", "phone", "email"))
    interests = ";".join(person.interests)
    place = (person.city, person.address, interests)
    return (person.reference, person.kind, *written, person.document, person.birthday, person.gender, *place)


# --- the telephone company's churn table -----------------------------------------------------------------------------

_TELCO = {
    "SeniorCitizen": ("BOOLEAN", "Senior citizen"),
    "Partner": ("BOOLEAN", "Has a partner"),
    "Dependents": ("BOOLEAN", "Has dependents"),
    "tenure": ("NUMBER", "Months as customer"),
    "PhoneService": ("BOOLEAN", "Phone service"),
    "MultipleLines": ("TEXT", "Multiple lines"),
    "InternetService": ("TEXT", "Internet service"),
    "OnlineSecurity": ("TEXT", "Online security"),
    "OnlineBackup": ("TEXT", "Online backup"),
    "DeviceProtection": ("TEXT", "Device protection"),
    "TechSupport": ("TEXT", "Tech support"),
    "StreamingTV": ("TEXT", "Streaming TV"),
    "StreamingMovies": ("TEXT", "Streaming movies"),
    "Contract": ("TEXT", "Contract term"),
    "PaperlessBilling": ("BOOLEAN", "Paperless billing"),
    "PaymentMethod": ("TEXT", "Payment method"),
    "MonthlyCharges": ("NUMBER", "Monthly charges"),
    "TotalCharges": ("NUMBER", "Total charges"),
    "Churn": ("BOOLEAN", "Left last month"),
}


def read(path: Path) -> Source:
    """A CSV file of real customers. One with the churn table's columns has its mapping here; of others the guess."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = list(csv.reader(file))
    if set(_TELCO) <= set(header) and "customerID" in header:
        return _telco(header, rows)
    return Source(header, rows, people=())


def _telco(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Source:
    """The table has no names: a customer is called after its id, which is also its service number."""
    at = {name: header.index(name) for name in header}
    people = [
        Person(row[at["customerID"]].lower().replace("-", ""), "PERSON", f"Customer {row[at['customerID']]}", "",
               gender=row[at["gender"]].upper())
        for row in rows
    ]  # fmt: skip
    attributes = [{"key": _key(column), "type": kind, "label": label} for column, (kind, label) in _TELCO.items()]
    mapping = {column: f"attributes.{_key(column)}" for column in _TELCO}
    mapping |= {"customerID": "service_numbers", "gender": "gender", "Name": "names.full"}
    named = ([*row, f"Customer {row[at['customerID']]}"] for row in rows)
    return Source((*header, "Name"), named, people, attributes=attributes, mapping=mapping)


def _key(column: str) -> str:
    """MonthlyCharges as monthly_charges, StreamingTV as streaming_tv."""
    out = ""
    for before, letter in zip(f" {column}", column, strict=False):
        out += f"_{letter}" if letter.isupper() and before.islower() else letter
    return out.lower()
