"""Files as records: CSV and JSON Lines read from pieces of any size, without ever holding more than one record."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

LONGEST_RECORD = 256 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Spreadsheets take a cell that begins so for a formula; an apostrophe in front keeps it text (OWASP, CSV injection). A
# text that begins like one so kept gets one more, so that taking one off always gives the text back.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_KEPT_TEXT = re.compile(r"'+[=+\-@\t\r]")


class Unreadable(ValueError):
    """A record or header that cannot be read; the text says why."""


@dataclass(frozen=True)
class Record:
    """One record: its first line in the file from 1, where it ends, and its bytes; None where it is too long."""

    line: int
    lines: int
    end: int
    data: bytes | None


@dataclass
class _Open:
    """A record whose end has not been seen."""

    line: int
    parts: list[bytes]
    size: int = 0
    lines: int = 0
    quotes: int = 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        self.quotes += part.count(b'"')
        if self.size <= LONGEST_RECORD:
            self.parts.append(part)

    def closed(self, end: int) -> Record:
        whole = self.size <= LONGEST_RECORD
        return Record(self.line, self.lines, end, b"".join(self.parts) if whole else None)


def records(pieces: Iterable[bytes], *, quoted: bool, start: int = 0, line: int = 1) -> Iterator[Record]:
    """The records of a file from the byte `start` on, which is the beginning of line `line`.

    With `quoted` (CSV) a line break between quotation marks belongs to its record. A record longer than
    `LONGEST_RECORD` ends at its next line break: most likely a quotation mark was never closed.
    """
    at, current = start, _Open(line, [])
    for part, ends_line in _lines(pieces):
        at += len(part)
        current.add(part)
        current.lines += ends_line
        inside = quoted and current.quotes % 2 == 1 and current.size <= LONGEST_RECORD
        if ends_line and not inside:
            yield current.closed(at)
            current = _Open(current.line + current.lines, [])
    if current.size:
        current.lines += 1
        yield current.closed(at)


def _lines(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The pieces cut behind each line break, and whether a cut ends a line."""
    for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for part in whole:
            yield part + b"\n", True
        if rest:
            yield rest, False


def text_of(record: Record) -> str:
    """The record's text without its line break; raises `Unreadable`."""
    if record.data is None:
        raise Unreadable(f"is longer than {LONGEST_RECORD:,} bytes; is a quotation mark never closed?")
    data = record.data.removeprefix(BYTE_ORDER_MARK) if record.line == 1 else record.data
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 at byte {error.start + 1}") from None
    if "\0" in text:
        raise Unreadable("holds a NUL character")
    return text.rstrip("\r\n")


def cells(record: Record) -> list[str]:
    """The cells of a CSV record (RFC 4180); raises `Unreadable`."""
    text = text_of(record)
    try:
        found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise Unreadable(f"is not CSV: {error}") from None
    if len(found) > 1:
        raise Unreadable("is not one row: a quotation mark begins in it that ends in a later line")
    return [_as_text(cell) for cell in found[0]] if found else []


def _as_text(cell: str) -> str:
    return cell[1:] if _KEPT_TEXT.match(cell) else cell


def header(record: Record) -> list[str]:
    """The column names; raises `Unreadable` where one is empty or comes twice."""
    names = [name.strip() for name in cells(record)]
    if not any(names):
        raise Unreadable("the first line is empty")
    if not all(names):
        raise Unreadable(f"column {names.index('') + 1} has no name")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise Unreadable(f"the column {twice[0]!r} comes twice")
    return names


def csv_row(record: Record, columns: list[str]) -> dict[str, str]:
    """The cells of a record by column; raises `Unreadable` where there are too many or too few."""
    found = cells(record)
    if len(found) != len(columns):
        raise Unreadable(f"has {len(found)} cells, the header has {len(columns)}")
    return dict(zip(columns, found, strict=True))


def json_row(record: Record) -> dict[str, Any]:
    """The object of a JSON Lines record; raises `Unreadable`."""
    try:
        value = orjson.loads(text_of(record))
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"is not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise Unreadable("is not a JSON object")
    return value


def is_blank(record: Record) -> bool:
    """Whether the record is an empty line, which files often end with."""
    return record.data is not None and not record.data.strip()


def csv_line(values: Iterable[str]) -> str:
    """One CSV line; a value that a spreadsheet would take for a formula gets an apostrophe in front."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow([f"'{one}" if _FORMULA.match(one) else one for one in values])
    return out.getvalue()
