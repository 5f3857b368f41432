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
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class Lookup:
    """One step of a search: terms that count when they are equal, or a beginning; `words` must all begin a word."""

    match: customer_pb2.Match
    exact: tuple[str, ...] = ()
    prefix: str = ""
    words: tuple[str, ...] = ()


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
    return list(dict.fromkeys(found))


def _attribute_terms(key: str, value: Any) -> list[str]:
    kind = value.WhichOneof("kind")
    text = f"{value.number_value:.15g}" if kind == "number_value" else value.string_value
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


def lookups(query: str, *, region: str, attributes: Iterable[str]) -> Iterator[Lookup]:
    """The steps of a search, the surest first."""
    for match, exact in _identifiers(query, region, attributes):
        if exact:
            yield Lookup(match, exact=exact)
    words = names.words(query)
    if words:
        yield from _by_name(words)


def _identifiers(
    query: str, region: str, attributes: Iterable[str]
) -> Iterator[tuple[customer_pb2.Match, tuple[str, ...]]]:
    number, email = identifiers.normalize_customer_number(query), identifiers.normalize_email(query)
    yield customer_pb2.MATCH_CUSTOMER_NUMBER, (f"n{number}",) if number else ()
    document = identifiers.normalize_document(query)
    yield customer_pb2.MATCH_DOCUMENT, (f"d{document}",) if document else ()
    yield customer_pb2.MATCH_PHONE, tuple(f"p{one}" for one in _phones(query, region))
    yield customer_pb2.MATCH_EMAIL, (f"e{email}",) if email else ()
    service = identifiers.normalize_service_number(query)
    yield customer_pb2.MATCH_SERVICE_NUMBER, (f"s{service}",) if service else ()
    value = names.fold(query)[:_LONGEST_NAME]
    yield customer_pb2.MATCH_ATTRIBUTE, tuple(f"a{key}={value}" for key in attributes if value)


def _phones(query: str, region: str) -> list[str]:
    """The numbers meant: of the region, and of another country when the plus sign was left out."""
    written = (query, f"+{query.strip()}") if query.strip()[:1].isdigit() else (query,)
    found = (identifiers.normalize_phone(one, region=region) for one in written)
    return list(dict.fromkeys(one for one in found if one))


def _by_name(words: list[str]) -> Iterator[Lookup]:
    whole = "".join(words)[:_LONGEST_NAME]
    yield Lookup(customer_pb2.MATCH_FULL_NAME, exact=(f"f{whole}",))
    yield Lookup(customer_pb2.MATCH_NAME_PREFIX, prefix=f"f{whole}")
    longest = max(words, key=len)[:_LONGEST_NAME]
    yield Lookup(customer_pb2.MATCH_ANY_WORD, prefix=f"w{longest}", words=tuple(f"w{one}" for one in words))


def prefix_range(prefix: str) -> tuple[str, str]:
    """From the prefix to beyond everything that begins with it."""
    return prefix, prefix + _LAST


def matches(terms: Iterable[str], lookup: Lookup) -> bool:
    """Whether a customer with these terms is what the step looks for."""
    held = list(terms)
    if lookup.exact:
        return any(one in held for one in lookup.exact)
    wanted = lookup.words or (lookup.prefix,)
    return all(any(term.startswith(one) for term in held) for one in wanted)


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
