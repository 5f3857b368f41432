"""Point reads and searches through the gateway, and plain indexed finds on the same customers."""

from functools import partial
from urllib.parse import quote

from bench import databases, load, made
from bench.apart import Helper, helper
from bench.figures import CLIENTS, Figure, Plan, Target, compared
from bench.ground import Ground, ground
from bench.load import Run
from customer.store import CUSTOMERS

COUNT = 2000
YARDSTICK = "`find_one` by customer number with the driver alone"
AT_MOST = Target(3)


def measure(plan: Plan) -> list[Figure]:
    """Reads and searches by one client at a time and by several at once."""
    with ground(plan.directory / "reads") as place, helper() as clients:
        place.migrate("gateway", "customer")
        store = databases.opened(place.store.uri, "customer")
        known = made.fill(store, COUNT)
        store.close()
        place.service("customer", "serve")
        url, key = place.gateway(), place.key()
        figures = []
        for count in (1, CLIENTS):
            found = _rounds(plan, place, clients, (url, key), known, count)
            figures += _figures(found, count)
    return figures


def _rounds(
    plan: Plan, place: Ground, clients: Helper, door: tuple[str, str], known: list[made.Known], count: int
) -> list[tuple[Run, Run, Run]]:
    """Reads, searches and finds in turn."""
    crowd = load.Crowd(count, plan.seconds)
    reads = [f"/v1/customers/{one.customer_id}" for one in known]
    searches = [f"/v1/customers:search?query={quote(one.phone)}" for one in known]
    queries = [{"customer_number": one.number} for one in known]
    where = (place.store.uri, f"{databases.PREFIX}customer", CUSTOMERS.name)
    legs = [
        partial(clients.run, load.gets, *door, reads, crowd),
        partial(clients.run, load.gets, *door, searches, crowd),
        partial(clients.run, load.finds, *where, queries, crowd),
    ]
    return [(legs[0](), legs[1](), legs[2]()) for _ in range(plan.rounds)]


def _figures(found: list[tuple[Run, Run, Run]], count: int) -> list[Figure]:
    who = "one client" if count == 1 else f"{count} clients"
    figures = []
    for at, what in enumerate(("point read", "search by phone")):
        pairs = [(one[at], one[2]) for one in found]
        times, rates = [(a.p50, b.p50) for a, b in pairs], [(a.rate, b.rate) for a, b in pairs]
        figures += [
            compared(f"{what}, {who}, p50", "ms", times, AT_MOST, note=f"yardstick: {YARDSTICK}"),
            compared(f"{what}, {who}", "/s", rates),
        ]
    return figures
