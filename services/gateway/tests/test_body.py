import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import Invalid
from gateway import body, problems

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def mistakes(data: bytes) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        body.parsed(data)
    return [(one.field, one.reason) for one in caught.value.violations]


@settings(max_examples=100)
@given(plain)
def test_what_json_can_say_is_read_as_it_was_written(value) -> None:
    assert body.parsed(json.dumps(value).encode()) == value
    assert body.parsed(json.dumps(value, ensure_ascii=False).encode()) == value


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_mistake(data: bytes) -> None:
    try:
        found = body.parsed(data)
    except Invalid as error:
        found = [one.reason for one in error.violations]
    assert found is None or json.dumps(found)


def test_an_empty_body_is_an_empty_object() -> None:
    assert body.parsed(b"") == {}


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"{'a': 1}",
        b'{"a": 1,}',
        b"[1 2]",
        b'{"a"}',
        b"tru",
        b"NaN",
        b"-Infinity",
        b"01",
        b"0x10",
        b'"a\nb"',
        b" ",
    ],
)
def test_what_is_not_json_is_told_where(data: bytes) -> None:
    ((field, reason),) = mistakes(data)
    assert field == ""
    assert reason.startswith("the body is not JSON")


@pytest.mark.parametrize(
    "data", ['{"名": 1}'.encode("utf-16"), '{"a": "é"}'.encode("latin-1"), b"\xff", b'"\xed\xa0\x80"']
)
def test_other_encodings_than_utf_8_are_refused(data: bytes) -> None:
    ((_, reason),) = mistakes(data)
    assert reason == "the body is not UTF-8"


@pytest.mark.parametrize("data", [b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000])
def test_ten_thousand_levels_are_too_deep(data: bytes) -> None:
    assert mistakes(data) == [("", "the body is nested too deeply")]


def test_a_name_that_comes_twice_is_named() -> None:
    assert mistakes(b'{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}') == [("c", "is given more than once")]


def test_a_nul_is_named_wherever_it_hides() -> None:
    found = mistakes(rb'{"a": ["x", {"b": "\u0000"}], "c\u0000": 1, "d": "\\u0000"}')
    assert {field for field, _ in found} == {"a[1].b", "c\0"}


def test_a_name_with_half_a_surrogate_pair_is_refused() -> None:
    assert mistakes(rb'{"\ud800": 1}') == [("", "a field's name holds half a surrogate pair")]


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1" * 5_000, "9" * 400_000])
def test_a_number_beyond_everything_is_left_to_the_field_that_refuses_it(text: str) -> None:
    value = body.parsed(text.encode())
    assert abs(value) > 2**1100
    assert type(value) is int


@pytest.mark.parametrize(
    ("field", "pointer"),
    [
        ("phones[0].number", "#/phones/0/number"),
        ('attributes["a.b/c"]', "#/attributes/a.b~1c"),
        ("", "#"),
        ("a", "#/a"),
    ],
)
def test_a_path_is_also_given_as_a_pointer(field: str, pointer: str) -> None:
    assert problems.pointer(field) == pointer
