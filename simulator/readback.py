"""Customers read back from the platform: who they are to a channel that knows only what it is told."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from operator import itemgetter
from random import Random

from simulator.channel import Channel, Json
from simulator.people import Person


def everybody(loader: Channel) -> Iterator[Json]:
    """Every customer, by number."""
    return (json.loads(line) for line in loader.stream_lines("/v1/customers:export"))


def some(customers: Iterable[Json], *, seed: int, count: int) -> list[Json]:
    """So many of them, picked by chance and left in their order; all where there are no more.

    Each is as likely as any other, and no more than `count` are held (Vitter 1985, algorithm R).
    """
    random = Random(seed)
    kept: list[tuple[int, Json]] = []
    for place, customer in enumerate(customers):
        if place < count:
            kept.append((place, customer))
        elif (at := random.randrange(place + 1)) < count:
            kept[at] = (place, customer)
    return [customer for _, customer in sorted(kept, key=itemgetter(0))]


def recognised(customer: Json, people: Mapping[str, Person]) -> Person:
    """Who of `people`, by reference, this customer is, now with its number; a stranger as it carries its things."""
    shown = person_of(customer)
    return replace(people.get(shown.reference, shown), number=shown.number)


def person_of(customer: Json) -> Person:
    """What a customer carries, of each kind the first."""
    return Person(
        reference=next(iter(customer["service_numbers"]), ""),
        kind=customer["kind"],
        name=_first(customer["names"], "full"),
        phone=_first(customer["phones"], "number"),
        email=_first(customer["emails"], "address"),
        document=_first(customer["documents"], "number"),
        birthday=customer.get("birthday", ""),
        gender=customer["gender"],
        interests=tuple(customer["interests"]),
        number=customer["customer_number"],
    )


def _first(items: list[Json], name: str) -> str:
    return str(items[0][name]) if items else ""
