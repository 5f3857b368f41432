"""The simulated crowd is the same for the same seed, and believable."""

import re
from collections import Counter
from pathlib import Path

import pytest

from customer.rules import customers, identifiers
from simulator import loading
from simulator.people import crowd

TELCO = Path(__file__).resolve().parents[3] / "shared/data/telco/Telco-Customer-Churn.csv"
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


def test_a_generated_file_has_a_row_for_everybody_and_the_broken_ones_it_says() -> None:
    source = loading.generated(PEOPLE[:1000])
    lines = b"".join(source.pieces()).decode().splitlines()
    assert (len(lines), source.broken) == (1 + 1000 + 2, 2)


def test_a_file_of_others_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("\ufeffName,Phone\nAnn,1\n", encoding="utf-8")
    source = loading.read(tmp_path / "own.csv")
    assert (list(source.header), list(source.rows), source.mapping) == (["Name", "Phone"], [["Ann", "1"]], None)


@pytest.mark.data
@pytest.mark.skipif(not TELCO.exists(), reason="the public data sets are not here")
def test_the_churn_table_is_read_whole() -> None:
    source = loading.read(TELCO)
    rows = list(source.rows)
    assert (len(rows), len(source.people), len(source.attributes)) == (7043, 7043, 19)
    charges = source.header.index("TotalCharges")
    assert sum(not row[charges].strip() for row in rows) == 11
    assert (source.mapping or {})["MonthlyCharges"] == "attributes.monthly_charges"
    assert {one["key"] for one in source.attributes} >= {"streaming_tv", "senior_citizen", "churn"}
