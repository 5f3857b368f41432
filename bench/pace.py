"""Doing something so many times a second."""

import time
from collections.abc import Iterator


def paced(rate: float, seconds: float) -> Iterator[int]:
    """Counts up when it is time for the next; what is late is caught up with at once."""
    started = time.perf_counter()
    for number in range(int(rate * seconds)):
        wait = started + number / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        yield number
