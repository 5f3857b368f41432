"""What a customer is found by, and what a query looks for, as short strings that an index holds.

A term begins with a letter for its kind: `n` customer number, `d` document, `p` phone, `e` e-mail, `s` service number,
`a` attribute, `f` a whole name without gaps, `w` a word of a name. A Chinese name is there as written, in pinyin and
by its initials; a name of several words once for each word it may begin with.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from crm.customer.v1 import customer_pb2

from customer.rules import identifiers, names

_LONGEST_NAME = 80
_MOST_ROTATIONS = 4
_MOST_SUFFIXES = 20
_MOST_SUMMARY_TERMS = 400
# In front of every term of an archived customer, so that a search need not look at them to leave them out.
_ARCHIVED = "x"


@dataclass(frozen=True)
class Lookup:
    """One step of a search: terms of which one must be there, or beginnings that each must begin a term."""

    match: customer_pb2.Match
    exact: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


# --- what a customer is found by -------------------------------------------------------------------------------------


def index_terms(customer: customer_pb2.Customer, *, searchable: Iterable[str]) -> list[str]:
    """The terms of a customer whose identifiers are normalised; `searchable` are the attributes to find it by."""
    found = [f"n{customer.customer_number}"]
    found += [f"d{one.number}" for one in customer.documents]
    found += [f"p{one.number}" for one in customer.phones]
    found += [f"e{one.address}" for one in customer.emails]
    found += [f"s{one}" for one in customer.service_numbers]
    for key in searchable:
        found += _attribute_terms(key, customer.attributes[key])
    for name in customer.names:
        found += _name_terms(name)
    mark = _ARCHIVED if customer.status == customer_pb2.CUSTOMER_STATUS_ARCHIVED else ""
    return [f"{mark}{one}" for one in dict.fromkeys(found)]


def _attribute_terms(key: str, value: Any) -> list[str]:
    kind = value.WhichOneof("kind")
    written = {"number_value": f"{value.number_value:.15g}", "bool_value": str(value.bool_value).lower()}
    text = written.get(kind, value.string_value)
    folded = names.fold(text)
    return [f"a{key}={folded[:_LONGEST_NAME]}"] if folded else []


def _name_terms(name: customer_pb2.Name) -> Iterator[str]:
    yield from (f"f{one}" for one in _whole(names.words(name.full)))
    if name.family and name.given:
        yield from (f"f{one}" for one in _whole([*names.words(name.family), *names.words(name.given)]))
    for word in names.spellings(name.full):
        yield from (f"w{one}" for one in _parts(word))
    initials = _initials(names.words(name.full))
    if initials:
        yield f"w{initials}"


def _whole(words: list[str]) -> Iterator[str]:
    """The name without gaps, beginning with each of its words, Chinese ones also as they sound."""
    for start in range(min(len(words), _MOST_ROTATIONS)):
        rotated = words[start:] + words[:start]
        yield "".join(rotated)[:_LONGEST_NAME]
        if any(map(names.is_chinese, words)):
            yield "".join(_latin(word) for word in rotated)[:_LONGEST_NAME]
    if len(words) == 1 and names.is_chinese(words[0]):
        yield from _aloud(words[0])


def _latin(word: str) -> str:
    spoken = names.readings(word) if names.is_chinese(word) else ()
    return "".join(spoken[0]) if spoken else word


def _aloud(word: str) -> Iterator[str]:
    """Every reading of a Chinese name, family name first and last."""
    family = names.family_length(word)
    for syllables in names.readings(word):
        yield "".join(syllables)[:_LONGEST_NAME]
        if family < len(word) <= names.LONGEST_PERSONAL:
            yield "".join((*syllables[family:], *syllables[:family]))[:_LONGEST_NAME]


def _parts(word: str) -> Iterator[str]:
    """The word; of Chinese also what begins at each later character, written and spoken."""
    yield word[:_LONGEST_NAME]
    if not names.is_chinese(word):
        return
    for start in range(1, min(len(word), _MOST_SUFFIXES)):
        yield word[start : start + _MOST_SUFFIXES]
    for syllables in names.readings(word):
        for start in range(min(len(syllables), _MOST_SUFFIXES)):
            yield "".join(syllables[start : start + _MOST_SUFFIXES])


def _initials(words: list[str]) -> str:
    """First letters: zw of 张伟, jfk of John Fitzgerald Kennedy; empty for a single Latin word."""
    letters = "".join(_first_letters(word) for word in words)
    return letters[:_MOST_SUFFIXES] if len(letters) > 1 else ""


def _first_letters(word: str) -> str:
    if not names.is_chinese(word):
        return word[:1]
    spoken = names.readings(word)
    return "".join(syllable[0] for syllable in spoken[0]) if spoken else ""


# --- what a query looks for ------------------------------------------------------------------------------------------


def tiers(query: str, *, region: str, attributes: Iterable[str]) -> list[list[Lookup]]:
    """The steps of a search, the surest first, in tiers: one is looked at only when those before it found nobody.

    First what identifies; then what is meant by the whole query, a name or the beginning of one; then names in which
    every word of the query begins a word.
    """
    words = names.words(query)
    return [_identifiers(query, region), [*_values(query, attributes), *_by_name(words)], _by_words(words)]


def _identifiers(query: str, region: str) -> list[Lookup]:
    number, email = identifiers.normalize_customer_number(query), identifiers.normalize_email(query)
    document, service = identifiers.normalize_document(query), identifiers.normalize_service_number(query)
    steps = (
        Lookup(customer_pb2.MATCH_CUSTOMER_NUMBER, (f"n{number}",) if number else ()),
        Lookup(customer_pb2.MATCH_DOCUMENT, (f"d{document}",) if document else ()),
        Lookup(customer_pb2.MATCH_PHONE, tuple(f"p{one}" for one in _phones(query, region))),
        Lookup(customer_pb2.MATCH_EMAIL, (f"e{email}",) if email else ()),
        Lookup(customer_pb2.MATCH_SERVICE_NUMBER, (f"s{service}",) if service else ()),
    )
    return [step for step in steps if step.exact]


def _values(query: str, attributes: Iterable[str]) -> list[Lookup]:
    value = names.fold(query)[:_LONGEST_NAME]
    exact = tuple(f"a{key}={value}" for key in attributes if value)
    return [Lookup(customer_pb2.MATCH_ATTRIBUTE, exact)] if exact else []


def _phones(query: str, region: str) -> list[str]:
    """The numbers meant: of the region, and of another country when the plus sign was left out."""
    written = (query, f"+{query.strip()}") if query.strip()[:1].isdigit() else (query,)
    found = (identifiers.normalize_phone(one, region=region) for one in written)
    return list(dict.fromkeys(one for one in found if one))


def _by_name(words: list[str]) -> list[Lookup]:
    whole = "".join(words)[:_LONGEST_NAME]
    if not whole:
        return []
    return [
        Lookup(customer_pb2.MATCH_FULL_NAME, exact=(f"f{whole}",)),
        Lookup(customer_pb2.MATCH_NAME_PREFIX, prefixes=(f"f{whole}",)),
    ]


def _by_words(words: list[str]) -> list[Lookup]:
    prefixes = sorted((f"w{word[:_LONGEST_NAME]}" for word in words), key=len, reverse=True)
    return [Lookup(customer_pb2.MATCH_ANY_WORD, prefixes=tuple(prefixes))] if prefixes else []


def archived(lookup: Lookup) -> Lookup:
    """The same step among archived customers."""
    exact, prefixes = (tuple(f"{_ARCHIVED}{one}" for one in found) for found in (lookup.exact, lookup.prefixes))
    return Lookup(lookup.match, exact, prefixes)


def matches(terms: Iterable[str], lookup: Lookup) -> bool:
    """Whether a customer with these terms is what the step looks for."""
    held = list(terms)
    if lookup.exact:
        return any(one in held for one in lookup.exact)
    return all(any(term.startswith(one) for term in held) for one in lookup.prefixes)


# --- the words of a timeline -----------------------------------------------------------------------------------------


def summary_terms(text: str) -> list[str]:
    """The words of a text, of Chinese every character and pair of characters."""
    found = dict.fromkeys(
        term for word in names.words(text) for term in (_pieces(word) if names.is_chinese(word) else [word])
    )
    return list(found)[:_MOST_SUMMARY_TERMS]


def _pieces(word: str) -> list[str]:
    return [*word, *_pairs(word)]


def _pairs(word: str) -> list[str]:
    return [word[at : at + 2] for at in range(len(word) - 1)]


def query_terms(query: str) -> list[str]:
    """The terms that a text with all words of the query has."""
    return list(dict.fromkeys(term for word in names.words(query) for term in _looked_for(word)))


def _looked_for(word: str) -> list[str]:
    return _pairs(word) if names.is_chinese(word) and len(word) > 1 else [word]
