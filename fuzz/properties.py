"""Tokens, keys, cursors, masks, versions and messages under Hypothesis: only the documented refusals come out."""

import json
import re
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis
from crm.customer.v1 import customer_pb2
from flask import Request
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.test import EnvironBuilder

from chassis import codec, privacy, reads
from chassis.errors import Conflict, Denied, Invalid, Unauthenticated
from chassis.events import clock
from chassis.identity import Caller
from chassis.store import Store
from customer.rules import customers
from fuzz import grounds
from fuzz.grounds import Grounds
from fuzz.parsers import kinds, stored
from fuzz.part import Part
from gateway import answer, parse
from gateway.routes import Route, routes

Property = tuple[st.SearchStrategy[Any], Callable[[Any], None]]
SECRET = b"fuzz" * 8
EXAMPLES = 100  # of one property, before the next has its turn
HANG = timedelta(seconds=10)

# --- what is tried ---------------------------------------------------------------------------------------------------

ODD = ["", "\0", "a.b", "*", "..", "'\"", "NaN", "1e400", "-1", "王芳", "٣", "\u202e", "é́", '"1"', 'W/"1"', "0" * 400]
texts = st.sampled_from(ODD) | st.text(max_size=20) | st.text(st.characters(exclude_categories=[]), max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([10**400, 2**63, -(2**31) - 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def near(text: str) -> st.SearchStrategy[str]:
    """Texts that differ from this one in one place; and any."""
    places = st.integers(0, len(text))
    return st.builds(lambda at, to, put: text[:at] + put + text[to:], places, places, texts) | texts


def claims(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Claims that a signer of ours would never sign."""
    signed = values.filter(_encodable)
    return st.dictionaries(st.sampled_from([*names, "aud", "iat", "exp", "nbf", "sub"]), signed, max_size=3)


def _encodable(value: Any) -> bool:
    with suppress(ValueError):
        json.dumps(value, ensure_ascii=False).encode()
        return True
    return False


def objects(descriptor: Any) -> st.SearchStrategy[Any]:
    """JSON objects with the names of a message, three levels deep, and anything where values belong."""
    return _object(descriptor, 3) | values


def _object(descriptor: Any, depth: int) -> st.SearchStrategy[Any]:
    inner = {one.name: _field(one, depth) for one in descriptor.fields}
    return st.fixed_dictionaries({}, optional=inner) if inner else st.just({})


def _field(field: Any, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is None or depth == 0:
        return values
    one = st.deferred(lambda: _object(field.message_type, depth - 1))
    return (st.lists(one, max_size=2) if field.is_repeated else one) | values


# --- what must hold --------------------------------------------------------------------------------------------------


def page_token(text: str) -> None:
    """A cursor is ours or refused."""
    with suppress(Invalid):
        assert reads.read_token(SECRET, text, "bound") == "C0000000018"


def fields(given: tuple[Route, list[str], Any]) -> None:
    """A selection is of fields the answer has, and what it shows of anything it shows again."""
    route, asked, value = given
    with suppress(Invalid):
        tree = answer.selection(route.shown, asked)
        shown = answer.pruned(value, tree)
        assert repr(answer.pruned(shown, tree)) == repr(shown)


def update_mask(given: tuple[list[str], Any]) -> None:
    """A mask changes what may be changed, or is refused."""
    paths, value = given
    with suppress(Invalid, Conflict, Denied):
        said = codec.from_json(customer_pb2.Customer, value)
        asked = customer_pb2.UpdateCustomerRequest(customer=said, update_mask=FieldMask(paths=paths))
        privacy.may_change(asked, Caller("channel:web-shop", sees=frozenset({1, 2})))
        customers.require_changeable(asked.update_mask)
        stored_one = customer_pb2.Customer(customer_id="c", version=1, kind=customer_pb2.CUSTOMER_KIND_PERSON)
        after, changed = customers.update(stored_one, said, asked.update_mask, now=clock(), region="CN")
        assert after.customer_id == "c"
        assert after.version == 1 + bool(changed)


def request(given: tuple[Route, dict[str, str], list[tuple[str, str]], Any, str]) -> None:
    """A request is its operation's message, or refused with everything that is wrong with it."""
    route, headers, query, value, inside = given
    text = "&".join(f"{_encoded(name)}={_encoded(one)}" for name, one in query)
    body = json.dumps(value).encode() if route.body else b""
    sent = EnvironBuilder(method=route.method, query_string=text, data=body, content_type="application/json")
    with suppress(Invalid, parse.PreconditionRequired, UnsupportedMediaType, RequestEntityTooLarge):
        variables = {name.replace(".", "__"): inside for name in route.variables}
        message = parse.message_of(route, _asking(headers, sent), variables)
        assert not route.versioned or message.version > 0  # type: ignore[attr-defined]


def _encoded(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def message(given: tuple[type[Message], Any]) -> None:
    """What is taken comes back the same, from JSON and from the store."""
    kind, value = given
    with suppress(Invalid):
        taken = codec.from_json(kind, value)
        assert repr(codec.to_json(codec.from_json(kind, codec.to_json(taken)))) == repr(codec.to_json(taken))
        stored(taken)


# --- all of it -------------------------------------------------------------------------------------------------------


def properties(known: Grounds) -> Mapping[str, Property]:
    """What is tried and what must hold of it, by name."""
    served = st.sampled_from([one for one in routes() if not one.uploads])
    minted = claims("channel", "roles", "scopes", "sees", "hides").map(lambda one: known.of_gateway(**one))
    given = claims("roles").map(lambda one: known.of_person(**one))
    paths = st.sampled_from([*sorted(customers.CHANGEABLE), "attributes.plan", "names.full"]) | texts
    return {
        "caller token": (near(known.of_gateway()) | minted, lambda text: _refused(known.verifier.verify, text)),
        "staff token": (
            near(known.of_person()) | given,
            lambda text: _refused(known.callers.of, _asking({"Authorization": f"Bearer {text}"})),
        ),
        "API key": (near(known.key), lambda text: _refused(known.callers.of, _asking({"X-Api-Key": text}))),
        "page token": (near(reads.write_token(SECRET, "C0000000018", "bound")), page_token),
        "fields": (st.tuples(served, st.lists(_dotted(), max_size=4), values), fields),
        "update mask": (st.tuples(st.lists(paths, max_size=4), objects(customer_pb2.Customer.DESCRIPTOR)), update_mask),
        "request": (served.flatmap(_requests), request),
        "message": (st.sampled_from(kinds()).flatmap(_messages), message),
    }


def _refused(function: Callable[[Any], object], value: Any) -> None:
    with suppress(Unauthenticated, Denied):
        function(value)


def _asking(headers: Mapping[str, str], sent: EnvironBuilder | None = None) -> Request:
    """A request with these headers, as the server hands it on: bytes as Latin-1."""
    environ = (sent or EnvironBuilder()).get_environ()
    return Request(environ | {f"HTTP_{name.upper().replace('-', '_')}": _latin(one) for name, one in headers.items()})


def _latin(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def _dotted() -> st.SearchStrategy[str]:
    names = st.sampled_from(["names", "full", "results", "customer", "attributes", "version", "contacts"]) | texts
    # Half a surrogate pair cannot come in an address: werkzeug leaves its bytes quoted.
    return (st.lists(names, min_size=1, max_size=4).map(".".join) | texts).filter(_encodable)


def _requests(route: Route) -> st.SearchStrategy[Any]:
    latin = texts.map(_latin)
    headers = st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("If-Match", "Idempotency-Key", "Request-Timeout"), latin)
    )
    query = st.lists(st.tuples(st.sampled_from([*route.fields, "fields"]) | texts, texts), max_size=4)
    descriptor: Any = route.operation.request.DESCRIPTOR
    target = descriptor if route.body in ("", "*") else descriptor.fields_by_name[route.body].message_type
    return st.tuples(st.just(route), headers, query, objects(target), texts)


def _messages(kind: type[Message]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(kind), objects(kind.DESCRIPTOR))


def fuzz(store: Store, directory: Path, *, seed: int, seconds: float) -> Part:
    """Tries every property in turn for about so many seconds; one that does not hold is not tried again."""
    part, ends, turn = Part("properties"), time.monotonic() + seconds, 0
    with grounds.laid(store) as known:
        left = dict(properties(known))
        while left and (turn == 0 or time.monotonic() < ends):
            for name, one in list(left.items()):
                count, wrong = tried(one, seed=seed + turn)
                part.inputs += count
                if wrong:
                    del left[name]
                    part.findings.append(_kept(directory, name, seed + turn, wrong))
            turn += 1
    return part


def tried(one: Property, *, seed: int, examples: int = EXAMPLES) -> tuple[int, str]:
    """How often a property was tried, and how it broke: the smallest input with its traceback; empty where it held."""
    strategy, holds = one
    count = 0

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples, deadline=HANG, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
    )
    @hypothesis.given(strategy)
    def check(value: Any) -> None:
        nonlocal count
        count += 1
        holds(value)

    try:
        check()
    except Exception:
        return count, traceback.format_exc()
    return count, ""


def _kept(directory: Path, name: str, seed: int, wrong: str) -> str:
    path = directory / f"{name.replace(' ', '-')}.txt"
    path.write_text(wrong, "utf-8", "backslashreplace")
    what = next((line for line in reversed(wrong.splitlines()) if re.match(r"[\w.]+(Error|Exceeded)", line)), "broken")
    return f"{name}, seed {seed}: {what[:200]}; the input is in {path}"
