"""What a run of the demo came to: for people, and as one line for programs."""

import json
import statistics
from collections.abc import Iterator, Mapping

from simulator.channel import Channel, Json
from simulator.check import Findings

SHOWN = 20


def tell(findings: Findings, channels: Mapping[str, Channel], job: Json, *, seconds: float) -> int:
    """Prints the result; returns 0 when everything held, else 1."""
    held = list(_promises(findings, sum(channel.retried for channel in channels.values())))
    ok = all(holds for holds, _ in held)
    print(f"\nResult after {seconds:.0f} s")
    for holds, text in held:
        print(f"  {'✓' if holds else '✗'} {text}")
    for problem in findings.problems[:SHOWN]:
        print(f"    - {problem}")
    p95 = round(search_milliseconds(channels, 95), 1)
    print(f"\n{json.dumps(_summary(findings, job) | {'search_p95_ms': p95, 'ok': ok})}", flush=True)
    return 0 if ok else 1


def _promises(findings: Findings, retried: int) -> Iterator[tuple[bool, str]]:
    customers, published, handled = findings.customers, findings.published, findings.handled
    came = f"{customers:,} customers, each acknowledged write is there" if customers else "no customer came in"
    yield findings.lost == 0 < customers, f"nothing lost: {came}"
    yield findings.duplicated == 0, "nothing twice: neither a customer nor the effect of an event"
    yield published == handled, f"{published:,} events published, {handled:,} handled"
    yield not findings.problems, f"values, order and totals are right; channels repeated {retried} requests"


def _summary(findings: Findings, job: Json) -> Json:
    return {
        "customers": findings.customers,
        "rows_imported": int(job["imported"]),
        "rows_refused": int(job["rejected"]),
        "events_published": findings.published,
        "events_handled": findings.handled,
        "lost": findings.lost,
        "duplicated": findings.duplicated,
    }


def search_milliseconds(channels: Mapping[str, Channel], share: int) -> float:
    """Within how long so many of a hundred searches were answered, as the channels saw it; 0 where there was none."""
    times = sorted(one for channel in channels.values() for one in channel.milliseconds)
    return statistics.quantiles(times, n=100)[share - 1] if len(times) > 1 else sum(times)
