"""How the file of a job is read: which of its columns mean what, and its records as batches of rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from crm.customer.v1 import transfer_pb2

from chassis.errors import Invalid, Violation
from chassis.reads import Reader
from chassis.store import Store
from customer.commands.customers import definitions
from customer.commands.imports import MOST_COLUMNS, Batch, Job, Row, updates
from customer.queries.imports import pieces
from customer.rules import files, mapping
from customer.rules.files import Record, Unreadable

BATCH_ROWS = 500
BATCH_BYTES = 1024 * 1024
SHAPES = 100  # of JSON records whose plans are kept
LONGEST_KEY = 200

PlanOf = Callable[[tuple[str, ...]], mapping.Plan]


@dataclass(frozen=True)
class Layout:
    """How a file's records become customers.

    `columns` are those of CSV. A JSON record has its own; `keys` are all met so far, "" where one goes nowhere.
    """

    plan_of: PlanOf
    targets: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    data_start: int = 0  # where the first record behind the header begins
    data_line: int = 1
    keys: dict[str, str] = field(default_factory=dict)


class Failed(Exception):
    """The file as a whole cannot be imported; the text says why."""


def layout(store: Store, job: Job) -> Layout:
    """What the beginning of the file says of its rows; raises `Failed` where no customer can come of them."""
    defined = definitions(Reader(store))
    return _of_header(store, job, defined) if job.format == transfer_pb2.FILE_FORMAT_CSV else _of_keys(job, defined)


def _of_header(store: Store, job: Job, defined: mapping.Attributes) -> Layout:
    first = next(files.records(pieces(store, job, 0), quoted=True))
    try:
        columns = files.header(first)
    except Unreadable as problem:
        raise Failed(f"the header {problem}") from None
    chosen = dict(job.mapping) or mapping.guess(columns, defined, updating=updates(job))
    if updates(job) and mapping.LEFT_OUT in columns and mapping.LEFT_OUT not in chosen.values():
        chosen[mapping.LEFT_OUT] = mapping.LEFT_OUT
    _check(job, chosen, columns, defined)
    plan = mapping.plan(chosen, defined)
    return Layout(lambda _: plan, chosen, tuple(columns), first.end, 1 + first.lines)


def _check(job: Job, chosen: Mapping[str, str], columns: Iterable[str], defined: mapping.Attributes) -> None:
    absent = [one for one in chosen if one not in columns]
    if absent:
        raise Failed(f"the file has no column {absent[0]!r}")
    try:
        mapping.check(chosen, defined, updating=updates(job))
    except Invalid as error:
        raise Failed(error.message) from None
    named = any(target.startswith("names") for target in chosen.values())
    numbered = mapping.NUMBER in chosen.values()
    if job.mode == transfer_pb2.IMPORT_MODE_UPDATE and not numbered:
        raise Failed("no column holds the customer number: say in `mapping` which one does")
    if not named and not numbered:
        raise Failed("no column holds a name: say in `mapping` which one does")


def _of_keys(job: Job, defined: mapping.Attributes) -> Layout:
    given = {} if job.mapping_guessed else dict(job.mapping)
    keys: dict[str, str] = {}

    @lru_cache(SHAPES)
    def plan_of(met: tuple[str, ...]) -> mapping.Plan:
        targets = mapping.of_keys(met, given, defined, updating=updates(job))
        keys.update({key[:LONGEST_KEY]: targets.get(key, "") for key in met[: 2 * MOST_COLUMNS - len(keys)]})
        return mapping.plan(targets, defined)

    return Layout(plan_of, keys=keys)


# --- its records -----------------------------------------------------------------------------------------------------


def batches(store: Store, job: Job, how: Layout, *, region: str) -> Iterator[Batch]:
    """The rows that are still to be taken in, by `BATCH_ROWS` or `BATCH_BYTES`."""
    for records in _chunks(_records(store, job, how)):
        rows = [_read(how, record) for record in records if not files.is_blank(record)]
        lines = sum(record.lines for record in records)
        yield Batch(rows, end=records[-1].end, lines=lines, region=region, keys=dict(how.keys))


def _records(store: Store, job: Job, how: Layout) -> Iterator[Record]:
    start = max(job.done_bytes, how.data_start)
    return files.records(
        pieces(store, job, start), quoted=bool(how.columns), start=start, line=job.done_lines + how.data_line
    )


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.data or b"")
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read(how: Layout, record: Record) -> Row:
    text = (record.data or b"").decode("utf-8", "replace").rstrip("\r\n")
    try:
        row = _row(record, how.columns)
        return Row(record.line, text, said=mapping.said(row, how.plan_of(tuple(row))))
    except Unreadable as problem:
        return Row(record.line, text, refused=Invalid([Violation("", f"the row {problem}")]))
    except Invalid as error:
        return Row(record.line, text, refused=error)


def _row(record: Record, columns: tuple[str, ...]) -> dict[str, Any]:
    return files.csv_row(record, list(columns)) if columns else files.json_row(record)
