"""The readers of foreign bytes, each under atheris in a child of its own."""

import importlib
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fuzz.part import AT_ONCE, Part, beside, run

READERS = "fuzz.parsers"
LATE_SECONDS = 60.0  # for the imports, and for an input that hangs
_COUNT = re.compile(r"stat::number_of_executed_units: +([0-9]+)")
_KEPT = re.compile(r"Test unit written to (\S+)")
_NATIVE = re.compile(r"libFuzzer: (.+)")


def missing() -> str:
    """Why atheris cannot run here; empty where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"atheris runs on linux x86_64 only, this is {sys.platform} {platform.machine()}"
    return ""


def fuzz(directory: Path, *, seed: int, seconds: float, module: str = READERS, names: Sequence[str] = ()) -> Part:
    """Gives each reader of a module, or those named, its share of about so many seconds."""
    part, wanted = Part("readers"), names or list(importlib.import_module(module).TARGETS)
    part.skipped = missing()
    if not part.skipped:
        share = max(1, round(AT_ONCE * seconds / len(wanted)))
        for found in beside(partial(_one, module, directory.resolve(), seed, share), wanted):
            part.add(found)
    return part


def replay(name: str, path: Path) -> None:
    """Gives a reader one input; raises what comes out."""
    importlib.import_module(READERS).TARGETS[name].take(path.read_bytes())


def _one(module: str, directory: Path, seed: int, seconds: int, name: str) -> Part:
    argv = ["python", "-m", "fuzz.child", module, name, str(seconds), str(seed), str(directory)]
    shutil.rmtree(directory / "corpus" / name, ignore_errors=True)  # a run depends on its seed only
    ended = run(name, argv, directory=directory, seconds=seconds + LATE_SECONDS, settings={"LANG": "C.UTF-8"})
    count = _COUNT.search(ended.text)
    part = Part(name, inputs=int(count[1]) if count else 0)
    if ended.code != 0:
        part.findings.append(
            f"{name}, seed {seed}: {_what(ended.text, ended.code)}; {_where(name, ended.text, ended.log)}"
        )
    return part


def _what(text: str, code: int | None) -> str:
    """The exception that came out, or what libFuzzer says."""
    raised = text.partition("=== Uncaught Python exception: ===\n")[2].partition("\n")[0].strip()
    native = _NATIVE.search(text)
    return raised or (native[1] if native else f"ended with {code}")


def _where(name: str, text: str, log: Path) -> str:
    kept = _KEPT.search(text)
    return f"to replay it: make fuzz REPLAY='{name} {kept[1]}'" if kept else f"see {log}"
