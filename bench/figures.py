"""A figure and the yardstick beside it: measured in turns, so that what the machine does meanwhile hits both."""

import os
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
CLIENTS = 8  # at once, where several ask


@dataclass(frozen=True)
class Plan:
    """How long to measure: so many rounds, each side of a round for so many seconds; `directory` holds servers' data.

    `rows` are those of the smaller imported file.
    """

    directory: Path
    rounds: int = 5
    seconds: float = 3.0
    rows: int = 5000


def plan_from_environment(directory: Path) -> Plan:
    """ROUNDS, SECONDS and ROWS, each with a default that makes the whole bench last some twelve minutes."""
    given = os.environ
    return Plan(
        directory, int(given.get("ROUNDS", "5")), float(given.get("SECONDS", "3")), int(given.get("ROWS", "5000"))
    )


@dataclass(frozen=True)
class Target:
    """What is to be reached: at least or at most `bound`, by the ratio to the yardstick or by the `value` itself."""

    bound: float
    at_least: bool = False
    of: str = "ratio"
    unit: str = "×"

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{' ' if self.unit.isalpha() else ''}{self.unit}"

    def met(self, value: float, ratio: float | None) -> bool:
        """Whether the figure reaches it; a ratio that was not measured does not."""
        found = value if self.of == "value" else ratio
        return found is not None and (found >= self.bound if self.at_least else found <= self.bound)


@dataclass(frozen=True)
class Figure:
    """One line of the table. `ratio` is value by yardstick; `note` says what the yardstick is and what else matters."""

    figure: str
    value: float
    unit: str
    yardstick: float | None = None
    ratio: float | None = None
    target: str | None = None
    met: bool | None = None
    note: str = ""


def in_turns(rounds: int, measured: Callable[[], A], yardstick: Callable[[], B]) -> list[tuple[A, B]]:
    """A B A B …, so many of each."""
    return [(measured(), yardstick()) for _ in range(rounds)]


def compared(
    name: str, unit: str, pairs: Iterable[tuple[float, float]], target: Target | None = None, *, note: str = ""
) -> Figure:
    """The medians of both, and the median of the ratios of each round."""
    pairs = list(pairs)
    value, beside = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    met = target.met(value, ratio) if target else None
    return Figure(name, value, unit, beside, ratio, str(target) if target else None, met, note)


def alone(name: str, unit: str, values: Iterable[float], target: Target | None = None, *, note: str = "") -> Figure:
    """The median of a figure that has no yardstick."""
    value = statistics.median(values)
    met = target.met(value, None) if target else None
    return Figure(name, value, unit, target=str(target) if target else None, met=met, note=note)
