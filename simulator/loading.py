"""Files of customers: generated ones, and CSV files of real ones with what the platform has to know to read them."""

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from simulator.people import Person

BROKEN_EVERY = 500
PIECE_ROWS = 200
PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Source:
    """A file to import: how a channel streams it, the rows behind its header, the attributes to define before, and the
    mapping; None where the guess will do.

    `people` are the customers whose rows can be taken in; nobody where only the platform can tell.
    """

    pieces: Callable[[], Iterator[bytes]]
    rows: int
    people: Sequence[Person] = ()
    attributes: Sequence[Mapping[str, Any]] = ()
    mapping: Mapping[str, str] | None = None

    @property
    def broken(self) -> int:
        """How many rows cannot be taken in, where the people are known."""
        return self.rows - len(self.people)


def _written(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[bytes]:
    waiting = [header]
    for row in rows:
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
    return Source(lambda: _written(_HEADER, _with_broken(people)), len(people) + len(people) // BROKEN_EVERY, people)


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
    """A CSV file of real customers; raises OSError, or ValueError where it has no header.

    One with the churn table's columns has its mapping here. Any other is streamed byte by byte as it is: what its
    columns mean, and which rows cannot be read, is for the platform to say.
    """
    header = next(_rows(path), [])
    if not header:
        raise ValueError("it has no header")
    if set(_TELCO) <= set(header) and "customerID" in header:
        return _telco(header, list(islice(_rows(path), 1, None)))
    return Source(lambda: _bytes(path), sum(not _is_blank(row) for row in islice(_rows(path), 1, None)))


def _rows(path: Path) -> Iterator[list[str]]:
    """The rows as a reader finds them that knows nothing of the platform: it is what the platform is held to."""
    csv.field_size_limit(sys.maxsize)  # a quotation mark that is never closed makes one cell of all the rest
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        yield from csv.reader(file)


def _is_blank(row: Sequence[str]) -> bool:
    """Whether this was a line of nothing but spaces; one of two quotation marks is a row."""
    return not row or (len(row) == 1 and row[0].isspace())


def _bytes(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


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
    named = [[*row, f"Customer {row[at['customerID']]}"] for row in rows]
    return Source(lambda: _written((*header, "Name"), named), len(rows), people, attributes, mapping)


def _key(column: str) -> str:
    """MonthlyCharges as monthly_charges, StreamingTV as streaming_tv."""
    out = ""
    for before, letter in zip(f" {column}", column, strict=False):
        out += f"_{letter}" if letter.isupper() and before.islower() else letter
    return out.lower()
