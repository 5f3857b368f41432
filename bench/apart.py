"""Processes of their own for those who ask: what is measured must not share an interpreter lock with its clients."""

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from chassis import log

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Helper:
    """A process that carries out functions of this package, one at a time, and knows nothing between them."""

    pool: ProcessPoolExecutor

    def run(self, function: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
        """What the function returns there; raises `RuntimeError` with the whole story of what it raised."""
        return self.begin(function, *given, **named).result()

    def begin(self, function: Callable[P, R], *given: P.args, **named: P.kwargs) -> "Future[R]":
        """The same, without waiting for it."""
        return self.pool.submit(_told, partial(function, *given, **named))


def _told(work: Callable[[], R]) -> R:
    """What it returns; what it raises as text, since not every exception survives the way between processes."""
    try:
        return work()
    except Exception as error:
        raise RuntimeError("".join(traceback.format_exception(error))) from None


@contextmanager
def helper() -> Iterator[Helper]:
    """A fresh process, not a fork: connections and threads of this one stay here."""
    quiet = partial(log.configure, "bench", "ERROR")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=quiet) as pool:
        yield Helper(pool)
