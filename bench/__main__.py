"""`make bench`: what things cost, each beside its yardstick in the same run.

FIGURES chooses some (all); ROUNDS, SECONDS and ROWS how long each is measured; RESULTS where the JSON goes. Only a run
of all figures writes docs/performance.md. Everything runs on MONGODB_URI and AMQP_URL where they are set.
"""

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import onebox
from bench import breakdown, calls, creates, events, fleet, imports, reads, report
from bench.breakdown import Steps
from bench.figures import Figure, Plan, plan_from_environment
from bench.machine import Machine, load, machine
from chassis import log

FIGURES: dict[str, Callable[[Plan], list[Figure]]] = {
    "creates": creates.measure,
    "reads": reads.measure,
    "lag": events.measure_lag,
    "saturation": events.measure_saturation,
    "imports": imports.measure,
    "rpc": calls.measure_rpc,
    "http": calls.measure_http,
    "fleet": fleet.measure,
}
BREAKDOWN = "breakdown"
ALL = (*FIGURES, BREAKDOWN)


def main() -> int:
    """Measures, prints and writes; returns 0 when everything could be measured, whatever the targets say."""
    chosen = _chosen()
    log.configure("bench", "ERROR")
    results = Path(os.environ.get("RESULTS") or report.RESULTS)
    with tempfile.TemporaryDirectory(prefix="guanxi-bench-", ignore_cleanup_errors=True) as directory:
        plan = plan_from_environment(Path(directory))
        described = _described(plan)
        print(f"Guanxi bench: {', '.join(chosen)}\n", flush=True)
        figures, failed = _measured(plan, [one for one in chosen if one in FIGURES])
        steps = _steps(plan, failed) if BREAKDOWN in chosen else {}
    report.print_breakdown(steps)
    report.write_json(results, described, figures, steps)
    if not failed and set(chosen) == set(ALL):
        report.write_page(report.PAGE, described, figures, steps)
    print(f"\n{len(figures)} figures, {sum(one.met is False for one in figures)} miss their target; {results}")
    return 1 if failed else 0


def _chosen() -> list[str]:
    wanted = [one for one in os.environ.get("FIGURES", "").split(",") if one] or list(ALL)
    unknown = set(wanted) - set(ALL)
    if unknown:
        print(f"FIGURES: no such figure: {', '.join(sorted(unknown))}; there are {', '.join(ALL)}", file=sys.stderr)
        raise SystemExit(2)
    return wanted


def _described(plan: Plan) -> Machine:
    at: Machine = {"load": load(), "at": time.strftime("%Y-%m-%d"), "rounds": plan.rounds, "seconds": plan.seconds}
    with onebox.infrastructure(plan.directory / "machine") as (store, broker):
        return machine(store_uri=store.uri, amqp_url=broker.uri) | at


def _measured(plan: Plan, names: list[str]) -> tuple[list[Figure], list[str]]:
    """The figures, and which could not be measured: one that fails costs nobody the others."""
    figures: list[Figure] = []
    failed: list[str] = []
    for name in names:
        started = time.monotonic()
        try:
            found = FIGURES[name](plan)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        figures += found
        print(f"{name}, {time.monotonic() - started:.0f} s", *map(report.line, found), sep="\n", flush=True)
    return figures, failed


def _steps(plan: Plan, failed: list[str]) -> dict[str, Steps]:
    try:
        return breakdown.measure(plan)
    except Exception:
        traceback.print_exc()
        failed.append(BREAKDOWN)
        return {}


if __name__ == "__main__":
    sys.exit(main())
