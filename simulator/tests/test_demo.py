"""The demo on files of others: it shows everything with their customers, and says so when there are none."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a third of the rows carries each: phone, e-mail, document.
CARRIED = ("+44 20 7946 0{0:03d},,", ",Ann.{0}@Example.com,", ",,PA-1000{0:03d}")
ROWS = [f'"Ann {number}, née\nLee",{CARRIED[number % 3].format(number)},blue' for number in range(180)]
STRANGE = ["Zoë\u2028Line,,,,", "。。,,zoe@example.com,,", "张伟,13800138000,,,", "张伟,13800138000,,,"]
WRONG = ["Bob,12345,,,", "Bob,,not an address,,", ",,,,red", "Bob,too,few", "", "  "]


def demo(directory: Path, header: str, rows: Iterable[str]) -> tuple[int, dict[str, Any], str]:
    """The exit code, the summary and the report of a run on a file of these rows."""
    (directory / "own.csv").write_text("\n".join((header, *rows)), encoding="utf-8")
    paths = os.pathsep.join(path for path in sys.path if path)
    settings = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(directory), "DATA": str(directory / "own.csv")}
    command = [sys.executable, "-m", "simulator.demo"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.slow
def test_a_file_of_others_is_really_shown(tmp_path: Path) -> None:
    code, summary, said = demo(tmp_path, "Name,Phone,E-Mail,Document number,Colour", [*ROWS, *WRONG, *STRANGE])
    assert (code, summary["ok"]) == (0, True), said
    assert (summary["customers"], summary["rows_imported"], summary["rows_refused"]) == (184, 184, 4)
    # Registered, changed twice, opened and continued; the import itself; nothing else happens.
    assert summary["events_published"] == summary["events_handled"] == 184 + 2 * 15 + 2 * 30 + 3
    assert "columns left out: Colour" in said
    assert "40 by customer number" in said
    found = said.partition("2. They are found")[2].partition("3. Two channels")[0]
    assert all(f" by {what}" in found for what in ("name", "phone", "e-mail", "document"))
    assert "15 times one won; 15 times the other read again" in said
    assert "30 conversations begun on the web" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "rows", "why"),
    [
        ("Name,Phone", ["Bob,12345", "Ann,x"], "2 × Phone is not a phone number"),
        ("Colour,Size", ["blue,1"], "no column holds a name"),
    ],
)
def test_a_run_in_which_nobody_came_in_is_not_right(tmp_path: Path, header: str, rows: list[str], why: str) -> None:
    code, summary, said = demo(tmp_path, header, rows)
    assert (code, summary["ok"], summary["customers"]) == (1, False, 0), said
    assert f"no customer came in: {why}" in said


def test_a_file_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "DATA": str(tmp_path)}
    command = [sys.executable, "-m", "simulator.demo"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be loaded" in done.stderr
