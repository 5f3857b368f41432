"""Files are streamed as they are, and what the platform makes of their rows is held to a count of our own."""

import csv
import io
from pathlib import Path

import pytest

from customer.rules import files
from simulator import loading
from simulator.people import crowd

TELCO = Path(__file__).resolve().parents[3] / "shared/data/telco/Telco-Customer-Churn.csv"


def rows_of(source: loading.Source) -> list[list[str]]:
    return list(csv.reader(io.StringIO(b"".join(source.pieces()).decode(), newline="")))


def test_a_generated_file_has_a_row_for_everybody_and_the_broken_ones_it_says() -> None:
    source = loading.generated(list(crowd(3, 1000)))
    assert (len(rows_of(source)), source.rows, source.broken) == (1 + 1000 + 2, 1002, 2)


def test_a_file_of_others_is_taken_as_it_is(tmp_path: Path) -> None:
    written = b"\xef\xbb\xbfName,Phone\nAnn,1\r\n\xff,2\n"
    (tmp_path / "own.csv").write_bytes(written)
    source = loading.read(tmp_path / "own.csv")
    assert b"".join(source.pieces()) == written
    assert (source.rows, list(source.people), source.mapping) == (2, [], None)


@pytest.mark.parametrize(
    ("behind_the_header", "rows"),
    [
        ("", 0),
        ("Ann,1\nBob,2", 2),
        ("\nAnn,1\n  \n\r\nBob,2\n\n", 2),
        ('"Ann\nLee\n\nMay",1\n"Bob ""the\n"" Builder",2\n', 2),
        (",\n,,,,\nBob\n", 3),
        ("张伟,1\u2028\x85\n李娜,2\n", 2),
    ],
)
def test_rows_are_counted_as_the_platform_counts_them(tmp_path: Path, behind_the_header: str, rows: int) -> None:
    (tmp_path / "own.csv").write_text(f"Name,Phone\n{behind_the_header}", encoding="utf-8", newline="")
    source = loading.read(tmp_path / "own.csv")
    records = list(files.records(source.pieces(), quoted=True))
    assert source.rows == rows == sum(not files.is_blank(one) for one in records[1:])


def test_an_empty_cell_alone_on_its_line_is_a_row_when_it_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text('Name\n""\n\nAnn\n', encoding="utf-8")
    assert loading.read(tmp_path / "own.csv").rows == 2


def test_a_cell_of_any_length_can_be_counted(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(f'Name,Phone\n"{"x" * 300_000}\n,1\n', encoding="utf-8")
    assert loading.read(tmp_path / "own.csv").rows == 1


def test_a_file_without_a_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="no header"):
        loading.read(tmp_path / "empty.csv")


@pytest.mark.data
@pytest.mark.skipif(not TELCO.exists(), reason="the public data sets are not here")
def test_the_churn_table_is_read_whole() -> None:
    source = loading.read(TELCO)
    header, *rows = rows_of(source)
    assert (len(rows), source.rows, len(source.people), len(source.attributes)) == (7043, 7043, 7043, 19)
    charges = header.index("TotalCharges")
    assert sum(not row[charges].strip() for row in rows) == 11
    assert (source.mapping or {})["MonthlyCharges"] == "attributes.monthly_charges"
    assert {one["key"] for one in source.attributes} >= {"streaming_tv", "senior_citizen", "churn"}
