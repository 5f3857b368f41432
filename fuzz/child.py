"""One reader under atheris: `python -m fuzz.child <module> <target> <seconds> <seed> <folder>`.

The module has the `TARGETS`. An input that crashes a reader, that it hangs on or that makes it grow is kept in the
folder.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz import memory

HANG_SECONDS = 10
RSS_MEGABYTES = 1500
GROWTH_MEGABYTES = 200
LONGEST_INPUT = 4096
LOOK_EVERY = 1000  # inputs
WARM = 5000  # inputs; caches of ours that are bounded fill meanwhile


class Growing(MemoryError):
    """The process holds much more than when it was warm."""


def watched(take: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The same function, which raises `Growing` where memory is not given back."""
    seen, warm = 0, 0

    def taken(data: bytes) -> None:
        nonlocal seen, warm
        take(data)
        seen += 1
        if seen == WARM:
            warm = memory.resident(os.getpid())
        if warm and seen % LOOK_EVERY == 0:
            grown = (memory.resident(os.getpid()) - warm) >> 20
            if grown > GROWTH_MEGABYTES:
                raise Growing(f"{grown} MB more after {seen} inputs than after {WARM}")

    return taken


def main(module: str, name: str, seconds: str, seed: str, folder: str) -> None:
    """Gives the reader inputs until its time is up; this process ends with it, and with 0 where nothing was found."""
    import atheris

    # Before anything of ours is imported, which is how it learns what an input reaches.
    with atheris.instrument_imports(include=["chassis", "customer", "gateway"], enable_loader_override=False):
        target = importlib.import_module(module).TARGETS[name]
    corpus = Path(folder) / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(one)
    limits: dict[str, Any] = {
        "max_total_time": seconds, "seed": seed, "artifact_prefix": f"{folder}/{name}-", "timeout": HANG_SECONDS,
        "rss_limit_mb": RSS_MEGABYTES, "max_len": LONGEST_INPUT, "print_final_stats": 1, "verbosity": 0,
    }  # fmt: skip
    flags = [f"-{key}={value}" for key, value in limits.items()]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], watched(target.take))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
