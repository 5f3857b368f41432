"""Durable creates through the gateway, and plain transactions of two documents on the same store."""

from functools import partial

from bench import load
from bench.apart import Helper, helper
from bench.databases import PREFIX
from bench.figures import CLIENTS, Figure, Plan, Target, compared, in_turns
from bench.ground import Ground, ground
from bench.load import Run

YARDSTICK = "transactions of two inserts, the record and its event, with the driver alone"
AT_LEAST = Target(0.6, at_least=True)


def measure(plan: Plan) -> list[Figure]:
    """Creates alone, and creates while their events are published and counted."""
    with ground(plan.directory / "creates", broker=True) as place, helper() as clients:
        place.migrate("gateway", "customer", "analytics")
        place.service("customer", "serve")
        url, key = place.gateway(), place.key()
        # Nobody relays here: the yardstick writes its event and leaves it, too.
        alone = _rounds(plan, place, clients, url, key)
        indexed = _rounds(plan, place, clients, url, key, indexed=True)
        place.service("customer", "work")
        place.service("analytics", "work")
        busy = _rounds(plan, place, clients, url, key)
    note = f"yardstick: {YARDSTICK}, {CLIENTS} clients on both sides"
    bare, same = f"{note}; no indexes but `_id`", f"{note}; with the platform's indexes"
    return [
        _rates("durable creates through the gateway", alone, AT_LEAST, note=bare),
        _rates("the same, beside transactions with the same indexes", indexed, None, note=same),
        _rates("the same, their events published and counted meanwhile", busy, None, note=bare),
        compared(
            "latency of a create, p50", "ms", [(one.p50, two.p50) for one, two in alone],
            note=f"p99 {_worst(alone):.0f} ms",
        ),
    ]  # fmt: skip


def _rates(name: str, pairs: list[tuple[Run, Run]], target: Target | None, *, note: str) -> Figure:
    return compared(name, "/s", [(one.rate, two.rate) for one, two in pairs], target, note=note)


def _worst(pairs: list[tuple[Run, Run]]) -> float:
    return sorted(one.at(0.99) for one, _ in pairs)[len(pairs) // 2]


def _rounds(
    plan: Plan, place: Ground, clients: Helper, url: str, key: str, *, indexed: bool = False
) -> list[tuple[Run, Run]]:
    crowd = load.Crowd(CLIENTS, plan.seconds)
    through = partial(clients.run, load.creates, url, key, crowd)
    plainly = partial(clients.run, load.transactions, place.store.uri, f"{PREFIX}plain", crowd, indexed)
    return in_turns(plan.rounds, through, plainly)
