"""Compares the platform with the truth once all is quiet: through the gateway, and in the stores themselves."""

import time
from collections import Counter
from dataclasses import dataclass

from pymongo import MongoClient

from simulator import readback
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
    """Waits until every event has left its outbox and has been taken in, or nothing has moved for so long."""
    before, ends = -1, time.monotonic() + seconds
    with MongoClient[Json](uri) as client:
        while time.monotonic() < ends:
            waiting, facts = client["customer"]["outbox"].find_one({"state": "pending"}), _facts(client)
            if waiting is None and facts >= len(_events(client)):
                return True
            if facts != before:
                before, ends = facts, time.monotonic() + seconds
            time.sleep(0.5)
    return False


def _events(client: MongoClient[Json]) -> list[tuple[str, int]]:
    rows = client["customer"]["outbox"].find({}, {"events.aggregate_id": 1, "events.seq": 1})
    return [(event["aggregate_id"], event["seq"]) for row in rows for event in row["events"]]


def _facts(client: MongoClient[Json]) -> int:
    return sum(int(partition["count"]) for partition in client["analytics"]["freshness"].find({}))


def compare(uri: str, loader: Channel, office: Channel, ledger: Ledger) -> Findings:
    """Everything acknowledged is there once and right; every event was handled once and in order."""
    exported = list(readback.everybody(loader))
    lost, doubled = _missing(exported, ledger), _doubled(exported, ledger)
    with MongoClient[Json](uri) as client:
        events, handled = _events(client), _handled(client)
        parked = client["analytics"]["parked"].find_one({})
    problems = list(ledger.failures)
    if len(exported) != ledger.taken_in:
        problems.append(f"{ledger.taken_in:,} customers were taken in, {len(exported):,} are there")
    problems += [problem for customer in exported for problem in wrong(customer, ledger)]
    problems += _uneven(events) + (["an event is parked in analytics"] if parked else [])
    problems += _summary(office, len(exported), ledger)
    return Findings(
        customers=len(exported),
        published=len(events),
        handled=len(handled),
        lost=max(len(lost), ledger.taken_in - len(exported)) + len(set(events) - set(handled)),
        duplicated=max(len(doubled), len(exported) - ledger.taken_in) + len(handled) - len(set(handled)),
        problems=problems + [f"{one} is lost" for one in lost[:5]] + [f"{one} is there twice" for one in doubled[:5]],
    )


def _missing(exported: list[Json], ledger: Ledger) -> list[str]:
    """Those of whom all is known, by reference, and strangers who were seen before, by number."""
    there = {name for one in exported for name in (one["customer_number"], *one["service_numbers"])}
    strangers = (number for number, one in ledger.met.items() if one.reference not in ledger.people)
    return [one for one in (*ledger.people, *strangers) if one not in there]


def _doubled(exported: list[Json], ledger: Ledger) -> list[str]:
    # Of a foreign file nobody can say that two rows with one service number are one customer.
    seen = Counter(reference for one in exported for reference in one["service_numbers"])
    return [reference for reference in ledger.people if seen[reference] > 1]


def wrong(customer: Json, ledger: Ledger) -> list[str]:
    """What of a customer is not as it was acknowledged, or as it was seen when it had come in."""
    shown = readback.person_of(customer)
    person = ledger.people.get(shown.reference) or ledger.met.get(shown.number)
    if person is None:
        return [f"nobody registered {shown.number}"] if ledger.people else []
    found = [
        f"{shown.number}: {name} is {getattr(shown, name)!r}"
        for name, value in _expected(person).items()
        if value != getattr(shown, name)
    ]
    interests = ledger.interests.get(shown.number, {*shown.interests})
    return found + ([] if interests == {*shown.interests} else [f"{shown.number}: interests are {shown.interests}"])


def _expected(person: Person) -> Json:
    return {
        "name": " ".join(person.as_written("name").split()),
        "phone": person.phone,
        "email": person.email.lower(),
        "birthday": person.birthday,
        "document": person.document,
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
