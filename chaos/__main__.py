"""`make chaos`: one long run over everything, then one short run for each deliberate bug, which must be caught.

SEED chooses the faults and the clients' wishes, MINUTES how long things break in the long run (15), WRITES and FAULTS
what it must reach, BUGS which bugs to plant (all; `none`). DIRECTORY keeps histories, faults and logs; those of a run
that fails are kept anyway.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos import bugs, faults, fleet
from chaos.run import Outcome, Plan, run, say
from chassis import log

TRIES = 3
CLIENTS = 8
ROWS = 150


def main() -> int:
    """Runs everything; returns 0 when every promise was kept and every bug was caught."""
    seed = int(os.environ.get("SEED", "1"))
    directory = Path(os.environ.get("DIRECTORY") or tempfile.mkdtemp(prefix="guanxi-chaos-"))
    started = time.monotonic()
    log.configure("chaos", "ERROR")  # reading everything at the end is slow, and nobody's concern
    print(f"Guanxi under faults, seed {seed}; histories, faults and logs in {directory}", flush=True)
    outcome = run(_long(seed), directory / "long", say)
    chosen = _chosen()
    caught = {name: _caught(name, seed, directory) for name in chosen}
    _report(outcome, caught, time.monotonic() - started)
    ok = outcome.ok and all(caught.values())
    if ok and "DIRECTORY" not in os.environ:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if ok else 1


def _long(seed: int) -> Plan:
    seconds = 60 * float(os.environ.get("MINUTES", "15"))
    count = int(os.environ.get("FAULTS", str(max(6, round(seconds / 13)))))
    writes = int(os.environ.get("WRITES", str(round(seconds * 50_000 / 900))))
    # The last fault begins well before the end; what is missing to the writes then is made in peace.
    return Plan(seed, CLIENTS, writes, count, 1.8 * seconds, gap=0.8 * seconds / count, rows=ROWS)


def _chosen() -> list[str]:
    wanted = os.environ.get("BUGS", "all")
    return {"all": list(bugs.BUGS), "none": []}.get(wanted, wanted.split(","))


def _caught(name: str, seed: int, directory: Path) -> bool:
    """Whether the checker finds a planted bug, in at most three runs."""
    bug = bugs.BUGS[name]
    print(f"\nplanted: {name}, {bug.wrong}", flush=True)
    for attempt in range(TRIES):
        plan = Plan(
            seed + attempt, CLIENTS, 0, 5, 40, gap=2.5, kinds=bug.faults, targets=bug.targets, bug=name,
            replicas=fleet.FEW, quiet_seconds=12,
        )  # fmt: skip
        outcome = run(plan, directory / f"{name}-{attempt}", lambda _text: None)
        if not outcome.findings.ok:
            say(f"caught after {outcome.writes} writes: {next(outcome.findings.lines())}")
            return True
    say("NOT caught")
    return False


def _report(outcome: Outcome, caught: dict[str, bool], seconds: float) -> None:
    print(f"\nResult after {seconds:.0f} s", flush=True)
    say(f"{outcome.writes:,} writes acknowledged of {outcome.calls:,} called; of {outcome.unknown} nobody knows")
    made = ", ".join(f"{outcome.made[kind]} {kind}" for kind in faults.CLASSES if outcome.made[kind])
    say(f"{sum(outcome.made.values())} faults: {made}; {outcome.restarts} processes started again")
    left = f"; LEFT: {outcome.left}" if outcome.left else ""
    say(f"quiet {outcome.converged:.0f} s after the clients had gone{left}")
    for kind, wrong in outcome.findings.wrong.items():
        say(f"{'✗' if wrong else '✓'} {kind.replace('_', ' ')}: {len(wrong)}")
    for line in (*outcome.findings.lines(), *outcome.spoiled):
        say(f"  - {line}")
    for name, found in caught.items():
        say(f"{'✓' if found else '✗'} {name} {'caught' if found else 'NOT caught'}")
    summary = {
        "writes": outcome.writes,
        "faults": sum(outcome.made.values()),
        **{kind: outcome.findings.count(kind) for kind in outcome.findings.wrong},
        "bugs_caught": f"{sum(caught.values())}/{len(caught)}",
        "ok": outcome.ok and all(caught.values()),
    }
    print(f"\n{json.dumps(summary)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
