"""Compares the platform with the truth once all is quiet: through the gateway, and in the stores themselves."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient

from simulator.channel import Channel, Json
from simulator.people import Person
from simulator.scenario import Ledger


@dataclass(frozen=True)
class Findings:
    """Counts of what must be and of what must not."""

    customers: int
    published: int
    handled: int
    lost: int
    duplicated: int
    problems: list[str]


def quiet(uri: str, *, seconds: float) -> bool:
    """Waits until every event has left its outbox and has been taken in, or the time is up."""
    ends = time.monotonic() + seconds
    with MongoClient[Json](uri) as client:
        while time.monotonic() < ends:
            waiting = client["customer"]["outbox"].find_one({"state": "pending"})
            if waiting is None and _facts(client) >= len(_events(client)):
                return True
            time.sleep(0.5)
    return False


def _events(client: MongoClient[Json]) -> list[tuple[str, int]]:
    rows = client["customer"]["outbox"].find({}, {"events.aggregate_id": 1, "events.seq": 1})
    return [(event["aggregate_id"], event["seq"]) for row in rows for event in row["events"]]


def _facts(client: MongoClient[Json]) -> int:
    return sum(int(partition["count"]) for partition in client["analytics"]["freshness"].find({}))


def compare(uri: str, loader: Channel, office: Channel, ledger: Ledger) -> Findings:
    """Everything acknowledged is there once and right; every event was handled once and in order."""
    exported = [json.loads(line) for line in loader.stream_lines("/v1/customers:export")]
    problems = list(ledger.failures)
    seen = Counter(reference for one in exported for reference in one["service_numbers"])
    lost = [reference for reference in ledger.people if not seen[reference]]
    doubled = [reference for reference, count in seen.items() if count > 1]
    for customer in exported:
        problems += _wrong(customer, ledger)
    with MongoClient[Json](uri) as client:
        events, handled = _events(client), _handled(client)
        parked = client["analytics"]["parked"].find_one({})
    problems += _uneven(events) + (["an event is parked in analytics"] if parked else [])
    problems += _summary(office, len(exported), ledger)
    return Findings(
        customers=len(exported),
        published=len(events),
        handled=len(handled),
        lost=len(lost) + len(set(events) - set(handled)),
        duplicated=len(doubled) + len(handled) - len(set(handled)),
        problems=problems + [f"{one} is lost" for one in lost[:5]] + [f"{one} is there twice" for one in doubled[:5]],
    )


def _wrong(customer: Json, ledger: Ledger) -> list[str]:
    reference = next(iter(customer["service_numbers"]), "")
    person = ledger.people.get(reference)
    if person is None:
        return [f"nobody registered {customer['customer_number']}"] if ledger.people else []
    expected = _expected(person) | ({"interests": ledger.interests[reference]} if reference in ledger.interests else {})
    shown = _shown(customer, person)
    return [f"{reference}: {name} is {shown[name]!r}" for name, value in expected.items() if value != shown[name]]


def _expected(person: Person) -> dict[str, Any]:
    return {
        "name": " ".join(person.as_written("name").split()),
        "phone": person.phone,
        "email": person.email.lower(),
        "birthday": person.birthday,
        "document": person.document,
    }


def _shown(customer: Json, person: Person) -> dict[str, Any]:
    def first(items: list[Json], name: str) -> str:
        return str(items[0][name]) if items else ""

    return {
        "name": first(customer["names"], "full"),
        "phone": first(customer["phones"], "number"),
        "email": first(customer["emails"], "address"),
        "birthday": customer.get("birthday", "") if person.birthday else "",
        "document": first(customer["documents"], "number"),
        "interests": set(customer["interests"]),
    }


def _handled(client: MongoClient[Json]) -> list[tuple[str, int]]:
    facts = client["analytics"]["facts"].find({}, {"aggregate_id": 1, "aggregate_seq": 1})
    return [(one["aggregate_id"], one["aggregate_seq"]) for one in facts]


def _uneven(events: list[tuple[str, int]]) -> list[str]:
    """Records whose events are not numbered from 1 without gaps."""
    numbers: dict[str, list[int]] = {}
    for record, number in events:
        numbers.setdefault(record, []).append(number)
    gaps = {record: sorted(found) for record, found in numbers.items() if sorted(found) != [*range(1, len(found) + 1)]}
    return [f"events of {record}: {found}" for record, found in gaps.items()]


def _summary(office: Channel, customers: int, ledger: Ledger) -> list[str]:
    """What analytics counted against what happened."""
    found = office.get("/v1/analytics/summary").json()
    counted = {name: int(found[name]) for name in ("customers", "contacts")}
    counted |= {name: int(count) for name, count in found["contacts_by_channel"].items()}
    true = {"customers": customers, "contacts": sum(ledger.contacts.values())} | ledger.contacts
    return [] if counted == true else [f"analytics counts {counted}, not {true}"]
