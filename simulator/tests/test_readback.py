"""Customers read back are people: those we know, or strangers who carry what they are shown with."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from customer.rules import identifiers
from simulator import check, readback, report, scenario
from simulator.check import Findings
from simulator.loading import Source
from simulator.people import Person, crowd
from simulator.scenario import Ledger

PEOPLE = {one.reference: one for one in crowd(3, 50)}
JOB = {"imported": 3, "rejected": 1}


def shown(serial: int, person: Person | None = None, **changes: Any) -> dict[str, Any]:
    """A customer as the platform shows it."""
    customer = {
        "customer_number": identifiers.customer_number(serial),
        "kind": "PERSON",
        "names": [{"full": " ".join(person.as_written("name").split()) if person else "Ann Lee"}],
        "phones": [{"number": person.phone}] if person else [],
        "emails": [{"address": person.email.lower()}] if person and person.email else [],
        "documents": [{"number": person.document}] if person and person.document else [],
        "gender": "UNSPECIFIED",
        "interests": [],
        "service_numbers": [person.reference] if person else [],
    }
    return customer | ({"birthday": person.birthday} if person and person.birthday else {}) | changes


def test_one_seed_meets_the_same_customers_in_their_order() -> None:
    everybody = [shown(serial) for serial in range(500)]
    numbers = [one["customer_number"] for one in readback.some(everybody, seed=1, count=40)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 40
    assert numbers == [one["customer_number"] for one in readback.some(iter(everybody), seed=1, count=40)]
    assert numbers != [one["customer_number"] for one in readback.some(everybody, seed=2, count=40)]


def test_of_a_few_all_are_met_and_of_nobody_nobody() -> None:
    few = [shown(serial) for serial in range(3)]
    assert readback.some(few, seed=1, count=40) == few
    assert readback.some([], seed=1, count=40) == []


def test_everybody_is_as_likely_to_be_met() -> None:
    everybody = [shown(serial) for serial in range(20)]
    met = Counter(
        one["customer_number"] for seed in range(2000) for one in readback.some(everybody, seed=seed, count=5)
    )
    assert len(met) == 20
    assert all(abs(count - 500) < 120 for count in met.values())  # six standard deviations


def test_somebody_known_is_recognised_with_what_they_write_and_their_number() -> None:
    person = next(one for one in PEOPLE.values() if one.written.get("phone"))
    met = readback.recognised(shown(7, person), PEOPLE)
    assert (met, met.written, met.number) == (
        replace(person, number="C0000000075"), person.written, identifiers.customer_number(7),
    )  # fmt: skip


def test_a_stranger_is_found_by_everything_it_carries() -> None:
    carries: dict[str, Any] = {"emails": [{"address": "ann@example.com"}], "documents": [{"number": "PA1234567"}]}
    stranger = readback.recognised(shown(7, service_numbers=["1234abc"], **carries), PEOPLE)
    assert dict(scenario.sayings(stranger)) == {
        "customer number": "c000 000 0075",
        "service number": "1234ABC",
        "name": "Ann Lee",
        "e-mail": "ANN@EXAMPLE.COM",
        "document": "PA1234 567",
    }
    assert all(
        identifiers.normalize_customer_number(query) for what, query in scenario.sayings(stranger) if "cust" in what
    )


@pytest.mark.parametrize(
    "customer", [shown(7), shown(7, names=[{"full": "。。"}]), shown(7, names=[{"full": "x" * 201}])]
)
def test_everybody_can_say_their_number(customer: dict[str, Any]) -> None:
    said = dict(scenario.sayings(readback.person_of(customer)))
    assert "customer number" in said
    assert ("name" in said) == (customer["names"][0]["full"] == "Ann Lee")


def test_a_customer_as_it_was_acknowledged_is_right_and_a_changed_one_is_told() -> None:
    person = next(one for one in PEOPLE.values() if one.document)
    ledger = Ledger(people=PEOPLE)
    assert check.wrong(shown(1, person), ledger) == []
    assert check.wrong(shown(1, person, phones=[]), ledger) == ["C0000000018: phone is ''"]
    assert check.wrong(shown(1), ledger) == ["nobody registered C0000000018"]


def test_a_stranger_must_stay_as_it_was_when_it_was_met() -> None:
    met = readback.person_of(shown(1))
    ledger = Ledger(met={met.number: met}, interests={met.number: {"chess"}})
    assert check.wrong(shown(1, interests=["chess"]), ledger) == []
    assert check.wrong(shown(1, names=[{"full": "Ann"}]), ledger) == [
        "C0000000018: name is 'Ann'",
        "C0000000018: interests are ()",
    ]
    assert check.wrong(shown(2), ledger) == []


@pytest.mark.parametrize(
    ("rows", "job", "taken_in", "failures"),
    [
        (3, {"imported": 2, "rejected": 1}, 2, []),
        (3, {"imported": 2, "rejected": 0}, 3, ["the file has 3 rows: 2 were imported, 0 refused"]),
        (2, {"imported": 0, "rejected": 2}, 0, ["no customer came in: 2 × Phone is wrong"]),
        (3, {"imported": 2, "rejected": 1, "status": "CANCELLED"}, 2, ["the import ended as CANCELLED: "]),
    ],
)
def test_each_row_of_a_file_is_a_customer_or_refused(
    rows: int, job: dict[str, Any], taken_in: int, failures: list[str]
) -> None:
    ledger, source = Ledger(), Source(lambda: iter(()), rows)
    scenario.settle(ledger, source, {"status": "COMPLETED", "error": ""} | job, ["2 × Phone is wrong"])
    assert (ledger.taken_in, ledger.failures) == (taken_in, failures)


def test_customers_from_counters_are_somebody_too() -> None:
    ledger, source = Ledger(taken_in=3), Source(lambda: iter(()), 0)
    scenario.settle(ledger, source, {"status": "COMPLETED", "error": "", "imported": 0, "rejected": 0}, [])
    assert (ledger.taken_in, ledger.failures) == (3, [])


def findings(**changes: Any) -> Findings:
    found: dict[str, Any] = {"customers": 3, "published": 7, "handled": 7, "lost": 0, "duplicated": 0, "problems": []}
    return Findings(**found | changes)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"customers": 0}, 1),
        ({"lost": 1}, 1),
        ({"duplicated": 1}, 1),
        ({"handled": 8}, 1),
        ({"problems": ["no customer came in"]}, 1),
    ],
)
def test_a_run_is_right_only_when_every_promise_held_and_somebody_came(
    changes: dict[str, Any], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.tell(findings(**changes), {}, JOB, seconds=1) == code
    printed = capsys.readouterr().out
    assert f'"ok": {"false" if code else "true"}' in printed
    assert ("✗" in printed) == bool(code)
