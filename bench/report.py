"""The table, on the screen, as JSON and in docs/performance.md."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from bench.breakdown import Steps
from bench.figures import Figure
from bench.machine import Machine

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench" / "results.json"
BEGIN, END = "<!-- written by make bench: begin -->", "<!-- written by make bench: end -->"


def line(figure: Figure) -> str:
    """A figure for the screen."""
    beside = f"{number(figure.yardstick):>10}" if figure.yardstick is not None else " " * 10
    ratio = f"{figure.ratio:7.2f}" if figure.ratio is not None else " " * 7
    mark = "" if figure.met is None else f"{'✓' if figure.met else '✗'} {figure.target}"
    return f"  {figure.figure:<60}{number(figure.value):>10} {figure.unit:<9}{beside}{ratio}  {mark}"


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_json(path: Path, machine: Machine, figures: Iterable[Figure], breakdown: dict[str, Steps]) -> None:
    """All of it, for programs."""
    found = {"machine": machine, "figures": [asdict(one) for one in figures], "breakdown_microseconds": breakdown}
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_page(page: Path, machine: Machine, figures: Iterable[Figure], breakdown: dict[str, Steps]) -> None:
    """Writes what stands between the marks anew and leaves the rest; raises `ValueError` where they are missing."""
    before, begun, rest = page.read_text("utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}")
    generated = "\n".join([*_machine(machine), *_table(figures), *_breakdown(breakdown)])
    page.write_text(f"{before}{BEGIN}\n{generated}\n{END}{after}", "utf-8")


def _machine(machine: Machine) -> Iterator[str]:
    yield "Measured by `make bench` on {cores} cores ({cpu}), {memory_gb} GB, {os}, Python {python}.".format(**machine)
    yield "Store: {store}. Broker: {broker}. Before it began, {load} processes ran at once; {at}.".format(**machine)
    yield ""


def _table(figures: Iterable[Figure]) -> Iterator[str]:
    yield "| figure | value | yardstick | ratio | target | met |"
    yield "|---|---|---|---|---|---|"
    notes: dict[str, int] = {}
    for one in figures:
        at = f" [{notes.setdefault(one.note, len(notes) + 1)}]" if one.note else ""
        beside = number(one.yardstick) if one.yardstick is not None else "–"
        ratio = f"{one.ratio:.2f}" if one.ratio is not None else "–"
        met = "" if one.met is None else "yes" if one.met else "**no**"
        yield f"| {one.figure}{at} | {number(one.value)} {one.unit} | {beside} | {ratio} | {one.target or ''} | {met} |"
    yield ""
    yield from (f"[{at}] {note}  " for note, at in notes.items())
    yield ""


def _breakdown(breakdown: dict[str, Steps]) -> Iterator[str]:
    names = list(dict.fromkeys(name for steps in breakdown.values() for name in steps))
    if not breakdown:
        return
    yield "What one operation costs, in µs; what is indented is part of the step above or paid rarely:"
    yield ""
    yield f"| step | {' | '.join(breakdown)} |"
    yield "|---|" + "---|" * len(breakdown)
    for name in names:
        shown = name.replace(" ", "&nbsp;&nbsp;", 1) if name.startswith(" ") else name
        values = [f"{steps[name]:,.0f}" if name in steps else "" for steps in breakdown.values()]
        yield f"| {shown} | {' | '.join(values)} |"
    yield ""


def print_breakdown(breakdown: dict[str, Steps]) -> None:
    """For the screen."""
    for operation, steps in breakdown.items():
        print(f"\n{operation}, µs", flush=True)
        for name, value in steps.items():
            print(f"  {name:<60}{value:>10,.0f}", flush=True)
