"""Events: how late their effect is at a steady rate, and how many a second relay and consumer can take."""

import statistics
from dataclasses import dataclass, replace
from functools import partial

from bench import databases, load, made, plain, worker
from bench.apart import Helper, helper
from bench.figures import Figure, Plan, Target, compared, in_turns
from bench.ground import Ground, ground
from bench.worker import Taken
from chassis import inbox, outbox

RATE, ENOUGH = 200, 0.95
# The embedded store cannot commit two hundred registrations a second and as many effects; so it gets ten in one.
TOGETHER = {"secantus": 10}
LAG_SECONDS = 3.0  # times the seconds of the plan, so that there are enough events for a p99
FULL = 3000
IMPORTED = 500  # events of a transaction, as an import makes them
LATE = Target(250, of="value", unit="ms")
RELAY, CONSUMER = Target(0.5, at_least=True), Target(0.7, at_least=True)


# --- lag -------------------------------------------------------------------------------------------------------------


def measure_lag(plan: Plan) -> list[Figure]:
    """From the moment a registration happens to the moment its effect elsewhere is committed."""
    with ground(plan.directory / "lag", broker=True) as place, helper() as feeder, helper() as taker:
        place.migrate("customer", "analytics")
        worker.declare(place.amqp_url)
        place.service("customer", "work")
        together = _together(place)
        seconds = LAG_SECONDS * plan.seconds
        body = next(made.registered(1)).body
        plainly = partial(feeder.run, plain.lags, place.amqp_url, rate=RATE, seconds=seconds, body=body)
        found = in_turns(plan.rounds, partial(_lag, place, feeder, taker, together, seconds), plainly)
    reached = statistics.median(rate for (_, rate), _ in found)
    pairs = [(ours, theirs) for (ours, _), theirs in found]
    note = "yardstick: publish → consume by plain pika, one quorum queue, same rate and size; "
    note += f"{reached:.0f} events/s were reached, {together} in a transaction"
    name, p50, p99 = f"event lag at {RATE} events/s", [], []
    for ours, theirs in pairs:
        p50.append((_at(ours, 0.5), _at(theirs, 0.5)))
        p99.append((_at(ours, 0.99), _at(theirs, 0.99)))
    late = compared(f"{name}, p99", "ms", p99, LATE, note=note)
    kept_up = reached >= ENOUGH * RATE  # a lag at a lower rate is another figure
    return [compared(f"{name}, p50", "ms", p50, note=note), replace(late, met=bool(late.met) and kept_up)]


def _together(place: Ground) -> int:
    store = databases.opened(place.store.uri, "customer")
    store.close()
    return TOGETHER.get(store.dialect, 1)


def _lag(place: Ground, feeder: Helper, taker: Helper, together: int, seconds: float) -> tuple[list[float], float]:
    """Lags in milliseconds, sorted, and the rate that was reached."""
    taking = taker.begin(
        worker.consume, place.store.uri, place.amqp_url, count=int(RATE * seconds), most_seconds=30 + 3 * seconds
    )
    worker.await_consumer(place.amqp_url)
    fed = feeder.run(worker.feed, place.store.uri, rate=RATE, together=together, seconds=seconds)
    return sorted((one.settled - one.occurred) * 1000 for one in taking.result()), fed.rate


def _at(times: list[float], share: float) -> float:
    return times[min(int(share * len(times)), len(times) - 1)]


# --- saturation ------------------------------------------------------------------------------------------------------


def measure_saturation(plan: Plan) -> list[Figure]:
    """A full outbox emptied by the relay, and the queues that it filled emptied by the consumer."""
    count = max(200, int(FULL * plan.seconds / 3))
    with ground(plan.directory / "saturation", broker=True) as place, helper() as one, helper() as other:
        place.migrate("customer", "analytics")
        worker.declare(place.amqp_url)
        bodies = [event.body for event in made.registered(count)]
        rounds = [_saturated(plan, place, one, other, bodies) for _ in range(plan.rounds)]
    note = f"yardstick: plain pika, confirms, window {outbox.WINDOW}, queues of the same type"
    two = "yardstick: plain transactions of two inserts, one client on both sides; the consumer takes up to "
    singles, imported = ([(getattr(each, what), each.sent) for each in rounds] for what in ("single", "imported"))
    return [
        compared("relay at saturation, single creates", "events/s", singles, RELAY, note=f"{note}; a row an event"),
        compared("relay at saturation, an import", "events/s", imported, note=f"{note}; {IMPORTED} in a transaction"),
        compared(
            "consumer at saturation", "events/s", [(each.taken, each.kept) for each in rounds], CONSUMER,
            note=f"{two}{inbox.BATCH} events at once",
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Saturated:
    """Events a second by the relay in single rows and in those of an import, by plain pika and by the consumer; and
    plain transactions a second."""

    single: float
    imported: float
    sent: float
    taken: float
    kept: float


def _saturated(plan: Plan, place: Ground, one: Helper, other: Helper, bodies: list[bytes]) -> Saturated:
    uri, url, count = place.store.uri, place.amqp_url, len(bodies)
    one.run(worker.write_outbox, uri, count, together=IMPORTED)
    imported = one.run(worker.relay, uri, url, count)
    worker.declare(url)
    one.run(worker.write_outbox, uri, count)
    single = one.run(worker.relay, uri, url, count)
    sent = other.run(plain.publish, url, bodies, outbox.WINDOW)
    taken = one.run(worker.consume, uri, url, count=count, most_seconds=30 + count / 20)
    kept = other.run(load.transactions, uri, f"{databases.PREFIX}plain", load.Crowd(1, plan.seconds))
    return Saturated(single, imported, sent, _rate(taken), kept.rate)


def _rate(taken: list[Taken]) -> float:
    """Events a second, from the end of the first batch on: what came before was connecting."""
    first, last = taken[0].settled, taken[-1].settled
    return sum(one.settled > first for one in taken) / (last - first)
