"""Laws of names, identifiers and search terms; no server is needed."""

import pytest
from crm.customer.v1 import customer_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from customer.rules import identifiers, names, terms

HAN = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=2, max_size=4)
LATIN = st.lists(
    st.sampled_from("Anna Renée O'Connor Søren Müller d'Angelo Jean-Luc Zoë".split()), min_size=1, max_size=4
)
ANYTHING = st.text(max_size=40)
LAWS = settings(max_examples=150, deadline=None)


def found_by(name: str, query: str, **fields) -> customer_pb2.Match | None:
    """Why a customer of this name is found; None when it is not."""
    customer = customer_pb2.Customer(customer_number="C0000000018", names=[{"full": name}], **fields)
    held = terms.index_terms(customer, searchable=customer.attributes.keys())
    for tier in terms.tiers(query, region="CN", attributes=["plan"]):
        for lookup in tier:
            if terms.matches(held, lookup):
                return lookup.match
    return None


@pytest.mark.parametrize(
    ("name", "query", "match"),
    [
        ("张伟", "张伟", customer_pb2.MATCH_FULL_NAME),
        ("张伟", "张 伟", customer_pb2.MATCH_FULL_NAME),
        ("张伟", "zhang wei", customer_pb2.MATCH_FULL_NAME),
        ("张伟", "ZhangWei", customer_pb2.MATCH_FULL_NAME),
        ("张伟", "Wei Zhang", customer_pb2.MATCH_FULL_NAME),
        ("张伟", "张", customer_pb2.MATCH_NAME_PREFIX),
        ("张伟", "zha", customer_pb2.MATCH_NAME_PREFIX),
        ("张伟", "伟", customer_pb2.MATCH_ANY_WORD),
        ("张伟", "zw", customer_pb2.MATCH_ANY_WORD),
        ("王小明", "ming", customer_pb2.MATCH_ANY_WORD),
        ("王小明", "ming wang", customer_pb2.MATCH_ANY_WORD),
        ("单雄信", "shan xiongxin", customer_pb2.MATCH_FULL_NAME),
        ("曾国藩", "zeng guofan", customer_pb2.MATCH_FULL_NAME),
        ("欧阳娜娜", "ouyang nana", customer_pb2.MATCH_FULL_NAME),
        ("欧阳娜娜", "nana ouyang", customer_pb2.MATCH_FULL_NAME),
        ("吕布", "lv bu", customer_pb2.MATCH_FULL_NAME),
        ("吕布", "lu bu", customer_pb2.MATCH_FULL_NAME),
        ("张茜", "zhang xi", customer_pb2.MATCH_FULL_NAME),
        ("Renée O'Connor", "renee oconnor", customer_pb2.MATCH_FULL_NAME),
        ("Renée O'Connor", "o connor", customer_pb2.MATCH_NAME_PREFIX),
        ("Renée O'Connor", "Connor", customer_pb2.MATCH_ANY_WORD),
        ("Renée O'Connor", "O’CONNOR, Renée", customer_pb2.MATCH_FULL_NAME),
        ("John Fitzgerald Kennedy", "kennedy john", customer_pb2.MATCH_NAME_PREFIX),
        ("John Fitzgerald Kennedy", "john ken", customer_pb2.MATCH_ANY_WORD),
        ("北京关系电信有限公司", "关系电信", customer_pb2.MATCH_ANY_WORD),
        ("北京关系电信有限公司", "guanxi", customer_pb2.MATCH_ANY_WORD),
        ("שלום עולם", "שלום", customer_pb2.MATCH_NAME_PREFIX),
        ("😀", "😀", customer_pb2.MATCH_FULL_NAME),
        ("张伟", "李", None),
        ("张伟", "zhang li", None),
        ("张伟", "...", None),
    ],
)
def test_a_name_is_found_however_it_is_said(name: str, query: str, match: customer_pb2.Match | None) -> None:
    assert found_by(name, query) == match


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ("C000-000-0018", customer_pb2.MATCH_CUSTOMER_NUMBER),
        ("0000000018", customer_pb2.MATCH_CUSTOMER_NUMBER),
        ("e-123 456", customer_pb2.MATCH_DOCUMENT),
        ("138 0013 8000", customer_pb2.MATCH_PHONE),
        ("+86-138-0013-8000", customer_pb2.MATCH_PHONE),
        ("008613800138000", customer_pb2.MATCH_PHONE),
        ("8613800138000", customer_pb2.MATCH_PHONE),
        ("ANN@Example.COM", customer_pb2.MATCH_EMAIL),
        ("Line 77", customer_pb2.MATCH_SERVICE_NUMBER),
        ("GOLD", customer_pb2.MATCH_ATTRIBUTE),
    ],
)
def test_identifiers_are_found_in_any_written_form(query: str, match: customer_pb2.Match) -> None:
    fields = {
        "documents": [{"number": "E123456"}],
        "phones": [{"number": "+8613800138000"}],
        "emails": [{"address": "ann@example.com"}],
        "service_numbers": ["line77"],
    }
    customer = customer_pb2.Customer(**fields)
    customer.attributes["plan"].string_value = "Gold"
    assert found_by("Somebody", query, **fields, attributes=dict(customer.attributes)) == match


@LAWS
@given(HAN | LATIN.map(" ".join))
def test_every_name_is_found_by_itself_by_its_beginning_and_by_each_of_its_words(name: str) -> None:
    assert found_by(name, name) == customer_pb2.MATCH_FULL_NAME
    assert found_by(name, name[:2].strip("'- ")) is not None
    for word in names.words(name):
        assert found_by(name, word) is not None


@LAWS
@given(HAN)
def test_a_chinese_name_is_found_as_it_sounds(name: str) -> None:
    for syllables in names.readings(name):
        assert found_by(name, " ".join(syllables)) == customer_pb2.MATCH_FULL_NAME


@LAWS
@given(ANYTHING)
def test_whatever_is_said_the_search_has_steps_and_never_fails(query: str) -> None:
    for tier in terms.tiers(query, region="CN", attributes=["plan"]):
        assert all(bool(one.exact) != bool(one.prefixes) for one in tier)


@LAWS
@given(ANYTHING)
def test_normalised_identifiers_stay_as_they_are(text: str) -> None:
    for normal in (
        identifiers.normalize_email,
        identifiers.normalize_document,
        identifiers.normalize_service_number,
        lambda one: identifiers.normalize_phone(one, region="CN"),
        names.fold,
    ):
        once = normal(text)
        assert once is None or normal(once) == once


@LAWS
@given(st.integers(0, 999_999_999))
def test_customer_numbers_survive_being_written_and_catch_a_wrong_digit(serial: int) -> None:
    number = identifiers.customer_number(serial)
    assert identifiers.normalize_customer_number(f" {number[:4]}-{number[4:].lower()} ") == number
    wrong = number[:-2] + str((int(number[-2]) + 1) % 10) + number[-1]
    assert identifiers.normalize_customer_number(wrong) is None


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("13800138000", "+8613800138000"),
        ("010-6552 9988", "+861065529988"),
        ("+44 20 7946 0958", "+442079460958"),
        ("(021) 6888-8888 转 123", "+862168888888"),
        ("１３８００１３８０００", "+8613800138000"),
        ("12345", None),
        ("phone", None),
        ("+999 123456789", None),
        ("1" * 200, None),
    ],
)
def test_phones_are_stored_in_one_form(written: str, stored: str | None) -> None:
    assert identifiers.normalize_phone(written, region="CN") == stored


def test_the_index_of_a_person_stays_small() -> None:
    customer = customer_pb2.Customer(
        customer_number="C0000000018",
        names=[{"full": "欧阳娜娜"}],
        phones=[{"number": "+8613800138000"}],
        emails=[{"address": "a@example.com"}],
        service_numbers=["line77"],
    )
    assert len(terms.index_terms(customer, searchable=[])) <= 25


@pytest.mark.parametrize("query", ["账单", "有误", "bill", "账单 bill", "单"])
def test_a_timeline_is_searched_by_words_and_by_pairs_of_characters(query: str) -> None:
    assert set(terms.query_terms(query)) <= set(terms.summary_terms("asked about the bill: 账单有误"))


def test_words_that_are_not_there_are_not_found() -> None:
    assert not set(terms.query_terms("账误")) <= set(terms.summary_terms("账单有误"))
