"""The simulated crowd is the same for the same seed, and believable."""

import re
from collections import Counter

from customer.rules import customers, identifiers
from simulator.people import crowd

PEOPLE = list(crowd(3, 2000))


def test_one_seed_is_one_crowd() -> None:
    assert list(crowd(3, 200)) == PEOPLE[:200]
    assert list(crowd(4, 200)) != PEOPLE[:200]


def test_references_are_nobody_elses_and_duplicates_say_whose_they_are() -> None:
    by_reference = {one.reference: one for one in PEOPLE}
    again = [one for one in PEOPLE if one.same_as]
    assert len(by_reference) == 2000
    assert 20 < len(again) < 120
    assert all(by_reference[one.same_as].phone == one.phone for one in again)


def test_identity_numbers_and_phones_are_real_ones_in_form() -> None:
    documents = [one.document for one in PEOPLE if one.document]
    assert len(documents) > 1500
    assert all(customers._check_digit_holds(one) for one in documents)
    assert all(identifiers.normalize_phone(one.as_written("phone"), region="CN") == one.phone for one in PEOPLE)
    assert all(identifiers.normalize_email(one.as_written("email")) == one.email.lower() for one in PEOPLE)


def test_there_are_persons_organisations_households_and_both_scripts() -> None:
    kinds = Counter(one.kind for one in PEOPLE)
    chinese = sum(bool(re.match("[一-鿿]", one.name)) for one in PEOPLE)
    addresses = Counter(one.address for one in PEOPLE if not one.same_as)
    assert kinds["PERSON"] > kinds["ORGANIZATION"] > 50
    assert 1000 < chinese < 1900
    assert addresses.most_common(1)[0][1] > 1
