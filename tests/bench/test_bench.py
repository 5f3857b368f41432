"""The bench measures, and says what it measured in the form it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import onebox
from bench import figures, report
from bench.figures import Figure, Target

SEEN = {"figure", "value", "unit", "yardstick", "ratio", "target", "met"}


def run(tmp_path: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    paths = [path for path in sys.path if Path(path).is_relative_to(onebox.REPOSITORY) and "site-packages" not in path]
    given = {"PYTHONPATH": os.pathsep.join(paths), "RESULTS": str(tmp_path / "results.json"), **settings}
    command = [sys.executable, "-m", "bench"]
    return subprocess.run(
        command, env=os.environ | given, cwd=onebox.REPOSITORY, capture_output=True, text=True, timeout=120
    )


def test_one_cheap_figure_is_measured_and_written_down(tmp_path: Path) -> None:
    done = run(tmp_path, FIGURES="rpc", ROUNDS="1", SECONDS="0.3")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert {"cores", "cpu", "memory_gb", "os", "python", "store", "store_dialect", "broker"} <= found["machine"].keys()
    assert len(found["figures"]) == 2
    for one in found["figures"]:
        assert one.keys() >= SEEN
        assert one["value"] > 0
        assert one["yardstick"] > 0
        assert one["ratio"] == pytest.approx(one["value"] / one["yardstick"])
        assert one["met"] is (one["ratio"] <= 1.5)


def test_a_figure_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, FIGURES="rpc,beauty")
    assert done.returncode == 2
    assert "beauty" in done.stderr


def test_a_ratio_is_the_median_of_the_rounds_not_of_the_sides() -> None:
    found = figures.compared("x", "/s", [(10, 100), (20, 20), (30, 10)], Target(0.6, at_least=True))
    assert (found.value, found.yardstick, found.ratio, found.met) == (20, 20, 1.0, True)


@pytest.mark.parametrize(
    ("target", "value", "ratio", "met"),
    [
        (Target(0.6, at_least=True), 1.0, 0.6, True),
        (Target(0.6, at_least=True), 1.0, 0.59, False),
        (Target(1.5), 1.0, 1.51, False),
        (Target(250, of="value", unit="ms"), 250.0, 99.0, True),
        (Target(250, of="value", unit="ms"), 251.0, 0.1, False),
        (Target(1.5), 1.0, None, False),
    ],
)
def test_a_target_says_what_must_reach_it(target: Target, value: float, ratio: float | None, met: bool) -> None:
    assert target.met(value, ratio) is met


def test_sides_are_measured_in_turns() -> None:
    seen: list[str] = []
    figures.in_turns(2, lambda: seen.append("A"), lambda: seen.append("B"))
    assert seen == ["A", "B", "A", "B"]


MACHINE: dict[str, str | int | float] = {
    "cores": 2, "cpu": "a processor", "memory_gb": 4.0, "os": "Debian", "python": "3.11", "store": "a store",
    "broker": "a broker", "load": 0.1, "at": "2026-01-01",
}  # fmt: skip


def test_the_page_keeps_what_people_wrote(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    report.write_page(page, MACHINE, [Figure("creates", 99.5, "/s", 200.0, 0.4975, "≥ 0.6 ×", False)], {})
    text = page.read_text("utf-8")
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "| creates | 99.5 /s | 200 | 0.50 | ≥ 0.6 × | **no** |" in text
    assert "old" not in text


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("by hand\n", "utf-8")
    with pytest.raises(ValueError, match="has no lines"):
        report.write_page(page, MACHINE, [], {})
    assert page.read_text("utf-8") == "by hand\n"


def test_the_page_of_the_repository_has_its_marks() -> None:
    text = report.PAGE.read_text("utf-8")
    assert report.BEGIN in text.partition(report.END)[0]
