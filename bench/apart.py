"""Processes of their own for those who ask: what is measured must not share an interpreter lock with its clients."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Helper:
    """A process that carries out functions of this package, one at a time, and knows nothing between them."""

    pool: ProcessPoolExecutor

    def run(self, function: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
        """What the function returns there; raises what it raises."""
        return self.pool.submit(function, *given, **named).result()

    def begin(self, function: Callable[P, R], *given: P.args, **named: P.kwargs) -> "Future[R]":
        """The same, without waiting for it."""
        return self.pool.submit(function, *given, **named)


@contextmanager
def helper() -> Iterator[Helper]:
    """A fresh process, not a fork: connections and threads of this one stay here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield Helper(pool)
