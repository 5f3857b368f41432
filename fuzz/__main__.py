"""`make fuzz`: what nobody would send, sent to the gateways, to what reads foreign bytes, and to what checks tokens.

SEED chooses what is sent, MINUTES how long it takes (5). DIRECTORY keeps logs and inputs; those of a run with findings
are kept anyway. REPLAY, a reader's name and a file, gives that input to that reader and nothing to anybody else.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import stack
from chassis import store
from fuzz import foreign, properties, web
from fuzz.part import Part
from gateway.store import SCHEMA

# What each part has of the time.
GATEWAYS, PROPERTIES, READERS = 0.55, 0.15, 0.3


def main() -> int:
    """Runs every part; returns 0 when nothing was found."""
    if given := os.environ.get("REPLAY"):
        return _replay(*given.split(maxsplit=1))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed, seconds = int(os.environ.get("SEED", "1")), 60 * float(os.environ.get("MINUTES", "5"))
    directory = Path(os.environ.get("DIRECTORY") or tempfile.mkdtemp(prefix="guanxi-fuzz-"))
    print(f"Guanxi given what nobody would send, seed {seed}; logs and inputs in {directory}", flush=True)
    try:
        parts = _run(directory, seed, seconds)
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 130
    ok = _report(seed, parts)
    if ok and "DIRECTORY" not in os.environ:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if ok else 1


def _replay(name: str, path: str) -> int:
    foreign.replay(name, Path(path))
    print(f"{name} takes {path} as it should")
    return 0


def _run(directory: Path, seed: int, seconds: float) -> list[Part]:
    with stack.running(directory / "platform") as platform:
        asked = _timed(lambda: web.fuzz(platform, directory / "gateways", seed=seed, seconds=GATEWAYS * seconds,
                                        wanted=list(web.askings())))  # fmt: skip
        opened = store.connect(platform.store.uri, "gateway", schema=SCHEMA)
        tried = _timed(lambda: properties.fuzz(opened, directory, seed=seed, seconds=PROPERTIES * seconds))
        opened.close()
    read = _timed(lambda: foreign.fuzz(directory / "readers", seed=seed, seconds=READERS * seconds))
    return [asked, tried, read]


def _timed(work: Callable[[], Part]) -> Part:
    started = time.monotonic()
    part = work()
    part.seconds = time.monotonic() - started
    print(f"  {part.name} done after {part.seconds:.0f} s: {len(part.findings)} findings", flush=True)
    return part


def _report(seed: int, parts: list[Part]) -> bool:
    print(f"\n  {'':12}{'requests':>12}{'inputs':>12}{'seconds':>9}{'findings':>10}")
    for part in parts:
        numbers = f"{part.requests:>12,}{part.inputs:>12,}{part.seconds:>9.0f}{len(part.findings):>10}"
        print(f"  {part.name:12}{numbers}" + (f"  skipped: {part.skipped}" if part.skipped else ""))
    findings = [one for part in parts for one in part.findings]
    for one in findings:
        print(f"  - {one}")
    requests, inputs = sum(part.requests for part in parts), sum(part.inputs for part in parts)
    summary = {"seed": seed, "requests": requests, "inputs": inputs, "findings": len(findings), "ok": not findings}
    print(f"\n{json.dumps(summary)}", flush=True)
    return not findings


if __name__ == "__main__":
    sys.exit(main())
