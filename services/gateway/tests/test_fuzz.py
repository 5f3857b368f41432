"""Whatever is sent to whatever operation, it is never our failure, and a refusal is always a problem."""

import json
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.routes import Route, routes

calm = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
ODD = ["", "\0", "\ud800", "$where", "a.b", "../..", "'\"", "NaN", "2026-05-01", "1e400", "-1", "王芳", "٣", "\u202e"]
texts = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=[]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([10**40, 2**63, -(2**31) - 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def bodies(route: Route) -> st.SearchStrategy[Any]:
    """Objects with this operation's own names, which get further than others; and anything at all."""
    request: Any = route.operation.request.DESCRIPTOR
    target = request if route.body in ("", "*") else request.fields_by_name[route.body].message_type
    known = st.dictionaries(st.sampled_from([one.name for one in target.fields]) | texts, values, max_size=6)
    return known | values


@pytest.mark.parametrize("route", [one for one in routes() if one.body], ids=lambda one: one.operation.method.name)
def test_no_body_makes_an_operation_fail(administrator, route: Route) -> None:
    @calm
    @given(bodies(route).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30))
    def check(body: bytes) -> None:
        path = route.path.replace("{", "").replace("}", "")
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4()), "If-Match": '"1"'}
        sound(administrator.request(route.method, path, content=body, headers=headers))

    check()


@pytest.mark.parametrize(
    "route", [one for one in routes() if one.method == "GET"], ids=lambda one: one.operation.method.name
)
def test_no_query_and_no_path_makes_an_operation_fail(administrator, route: Route) -> None:
    names = st.sampled_from([*route.fields, "fields"]) | texts

    @calm
    @given(st.lists(st.tuples(names, texts), max_size=4), texts)
    def check(query: list[tuple[str, str]], inside: str) -> None:
        path = route.path
        for name in route.variables:
            path = path.replace(f"{{{name}}}", encoded(inside) or "x")
        sound(administrator.get(path + "?" + "&".join(f"{encoded(name)}={encoded(text)}" for name, text in query)))

    check()


def encoded(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def sound(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
