"""`make up` as a person uses it, and the demo as a newcomer runs it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def left_behind(directory: Path, *, seconds: float) -> list[int]:
    """Processes that still name the directory after so many seconds."""
    ends = time.monotonic() + seconds
    while True:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if str(directory).encode() in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        if not found or time.monotonic() > ends:
            return found
        time.sleep(0.2)


@contextlib.contextmanager
def up(directory: Path) -> Iterator[tuple[str, str]]:
    """The platform until Ctrl-C; yields the internal gateway's address and a key, read from what it prints."""
    command = [sys.executable, "-m", "stack", str(directory)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if "v1/analytics/summary" in line:
                break
        found = re.search(r"curl -s (http://\S+)/v1/customers -H 'X-Api-Key: (\S+)'", printed)
        assert found, printed
        yield found[1], found[2]
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        code = process.wait(60)
    assert (code, rest.strip()) == (0, "stopped")


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind_and_the_next_start_finds_the_data(tmp_path: Path) -> None:
    body = {"kind": "PERSON", "names": [{"full": "张伟"}], "phones": [{"number": "138 0013 8000"}]}
    with up(tmp_path) as (url, key), httpx.Client(base_url=url, headers={"X-Api-Key": key}) as http:
        made = http.post("/v1/customers", json=body, headers={"Idempotency-Key": str(uuid4())}, timeout=20)
        assert made.status_code == 201
        assert http.get("/docs").status_code == 200
    assert left_behind(tmp_path, seconds=10) == []
    with up(tmp_path) as (url, again), httpx.Client(base_url=url, headers={"X-Api-Key": key}) as http:
        assert again == key
        found = http.get("/v1/customers:search", params={"query": "zhang wei"}, timeout=20).json()
        assert [one["customer"]["customer_id"] for one in found["results"]] == [made.json()["customer_id"]]
    assert left_behind(tmp_path, seconds=10) == []


@pytest.mark.slow
def test_the_demo_holds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulator.demo"]
    settings = {**environment(), "CUSTOMERS": "900", "SEED": "7", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, cwd=ROOT, timeout=280)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (summary["ok"], summary["customers"], summary["lost"], summary["duplicated"]) == (True, 900, 0, 0)
    assert summary["events_published"] == summary["events_handled"] > 900
    assert done.stderr == ""
    assert left_behind(tmp_path, seconds=10) == []
