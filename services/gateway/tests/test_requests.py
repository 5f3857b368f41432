"""Requests that are wrong in every way a client can be wrong: always a problem that says what, never a failure."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

MEGABYTE = 1024 * 1024
PERSON = {"kind": "PERSON", "names": [{"full": "Renée O'Connor"}]}


def post(client: httpx.Client, path: str, data: bytes, **headers: str) -> httpx.Response:
    known = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
    return client.post(path, content=data, headers={**known, **headers})


def register(client: httpx.Client, **fields: Any) -> httpx.Response:
    return post(client, "/v1/customers", json.dumps({**PERSON, **fields}).encode())


def fields_of(answer: httpx.Response, status: int = 400) -> list[str]:
    """The fields a problem names, after checking that it is one."""
    problem = answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.status_code == problem["status"] == status, problem
    assert problem["type"].startswith("urn:guanxi:problem:")
    assert problem["trace_id"] == answer.headers["Trace-Id"] != ""
    assert problem["instance"] == answer.request.url.path
    return [one["field"] for one in problem.get("errors", ())]


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        ({"names": "王芳"}, ["names"]),
        ({"names": {"full": "王芳"}}, ["names"]),
        ({"names": [[]]}, ["names[0]"]),
        ({"names": [{"full": 7}]}, ["names[0].full"]),
        ({"names": [{"full": {"$gt": ""}}]}, ["names[0].full"]),
        ({"names": [{"full": ["a"]}]}, ["names[0].full"]),
        ({"names": [{"full": "a\0b"}]}, ["names[0].full"]),
        ({"names": [{"full": "  "}]}, ["names[0].full"]),
        ({"names": [{"full": "x" * 201}]}, ["names[0].full"]),
        ({"names": []}, ["names"]),
        ({"kind": 1}, ["kind"]),
        ({"kind": "ALIEN"}, ["kind"]),
        ({"kind": True}, ["kind"]),
        ({"version": 2**31}, ["version"]),
        ({"version": 2**63}, ["version"]),
        ({"version": 10**40}, ["version"]),
        ({"version": 1.5}, ["version"]),
        ({"phones": [{"number": "13800138000", "preferred": "yes"}]}, ["phones[0].preferred"]),
        ({"phones": [{"number": "nobody"}]}, ["phones[0].number"]),
        ({"emails": [{"address": "no-address"}, {"address": 1}]}, ["emails[1].address"]),
        ({"birthday": "1990-02-30"}, ["birthday"]),
        ({"birthday": 19900228}, ["birthday"]),
        ({"birthday": {"year": 1990}}, ["birthday"]),
        ({"attributes": []}, ["attributes"]),
        ({"attributes": {"never_defined": 1}}, ['attributes["never_defined"]']),
        ({"interests": ["a", "a"]}, ["interests"]),
        ({"interests": "a"}, ["interests"]),
        ({"create_time": "yesterday"}, ["create_time"]),
        ({"$where": "sleep(1000)"}, ["$where"]),
        ({"__proto__": {}}, ["__proto__"]),
        ({"nickname": "Fang", "names": 1}, ["nickname", "names"]),
    ],
)
def test_every_bad_field_is_named(administrator, wrong: dict[str, Any], fields: list[str]) -> None:
    found = fields_of(register(administrator, **wrong))
    assert sorted(found) == sorted(fields)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 41, "9" * 400, "9" * 5000])
def test_a_huge_number_is_refused_by_its_field(administrator, number: str) -> None:
    body = f'{{"kind": "PERSON", "names": [{{"full": "x"}}], "version": {number}}}'
    assert fields_of(post(administrator, "/v1/customers", body.encode())) == ["version"]
    bound = f'{{"key": "k", "label": "x", "type": "NUMBER", "minimum": {number}}}'
    if "e" in number or len(number) >= 400:
        assert fields_of(post(administrator, "/v1/customer-attributes", bound.encode())) == ["minimum"]


def test_half_a_surrogate_pair_is_refused_by_its_field(administrator) -> None:
    body = rb'{"kind": "PERSON", "names": [{"full": "\ud800"}]}'
    assert fields_of(post(administrator, "/v1/customers", body)) == ["names[0].full"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"null", b"7", b'"text"', b"NaN", "{}".encode("utf-16"), b'{"kind": "\xe9"}', b"[" * 10_000,
     b'{"attributes":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001],
)  # fmt: skip
def test_a_body_that_is_no_object_is_refused_as_a_whole(administrator, body: bytes) -> None:
    assert fields_of(post(administrator, "/v1/customers", body)) == [""]


def test_nesting_that_json_can_read_is_still_bounded(administrator) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    assert fields_of(register(administrator, attributes={"a": deep})) == ['attributes["a"]']


def test_a_name_that_comes_twice_is_refused(administrator) -> None:
    body = b'{"kind": "PERSON", "kind": "ORGANIZATION", "names": [{"full": "x"}]}'
    assert fields_of(post(administrator, "/v1/customers", body)) == ["kind"]


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE customers; --", '{"$gt": ""}', "$where", "../../etc/passwd", "<b>&amp;"]
)
def test_text_that_looks_like_code_is_only_text(administrator, text: str) -> None:
    answer = register(administrator, names=[{"full": text}])
    assert answer.status_code == 201
    assert answer.json()["names"][0]["full"] == text
    found = administrator.get("/v1/customers:search", params={"query": text})
    assert found.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/v1/customers/$where", "/v1/customers/%7B%22$gt%22:%22%22%7D", "/v1/customers/..%5C..%5Cetc",
     "/v1/customers/%FF",
     "/v1/customers/%E7%8E%8B", "/v1/customers/%2e%2e", "/v1/customers/..%2F..%2Fetc", "//v1//customers",
     "/v1/customers/"],
)  # fmt: skip
def test_a_strange_path_finds_nothing(administrator, path: str) -> None:
    answer = administrator.get(path)
    fields_of(answer, 404)


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/customers/a%00b", "customer_id"), (f"/v1/customers/{'x' * 101}", "customer_id"),
     ("/v1/customers?kind=ALIEN", "kind"), ("/v1/customers?page_size=-1", "page_size"),
     ("/v1/customers?page_size=1e3", "page_size"), ("/v1/customers?page_size=99999999999999999999999", "page_size"),
     ("/v1/customers?page_size=201", "page_size"), ("/v1/customers?page_size=5&page_size=6", "page_size"),
     ("/v1/customers?page_token=abc", "page_token"), ("/v1/customers?page_token=%00", "page_token"),
     ("/v1/customers?kinds=PERSON", "kinds"), ("/v1/customers?$where=1", "$where"),
     ("/v1/customers?kind[$ne]=1", "kind[$ne]"),
     ("/v1/customers?fields=customers.shoe_size", "fields"), ("/v1/customers?fields=customers..names", "fields"),
     ("/v1/customers:search", "query"), ("/v1/customers:search?query=", "query"),
     ("/v1/customers:search?query=%20", "query"),
     ("/v1/customers:search?query=x&include_archived=maybe", "include_archived"),
     ("/v1/customers:search?query=x&query=y", "query"), ("/v1/customers:search?query=%00", "query"),
     ("/v1/customers:export?fields=names", "fields"),
     ("/v1/analytics/summary?as_of=yesterday", "as_of"),
     ("/v1/analytics/summary?as_of=9999999-01-01T00:00:00Z", "as_of")],
)  # fmt: skip
def test_a_bad_path_or_parameter_is_named(administrator, path: str, field: str) -> None:
    answer = administrator.get(path)
    assert set(fields_of(answer)) == {field}
    if path != "/v1/customers:search":
        assert answer.json()["errors"][0]["in"] == ("path" if field == "customer_id" else "query")


def test_what_travels_in_path_or_header_is_refused_in_the_body(administrator, registered) -> None:
    path = f"/v1/customers/{registered['customer_id']}:archive"
    body = json.dumps({"reason": "moved", "customer_id": "x", "version": 1, "request_id": "12345678"}).encode()
    found = fields_of(post(administrator, path, body, **{"If-Match": '"1"'}))
    assert sorted(found) == ["customer_id", "request_id", "version"]


def test_a_file_takes_no_parameters_and_no_compression(administrator) -> None:
    path = "/v1/customer-imports/1/file"
    assert fields_of(administrator.put(f"{path}?format=CSV", content=b"a")) == ["format"]
    assert fields_of(administrator.put(path, content=b"a", headers={"Content-Encoding": "gzip"}), 415) == []
    assert fields_of(administrator.put(f"/v1/customer-imports/{'x' * 101}/file", content=b"a")) == ["import_id"]


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "", "json"])
def test_another_kind_of_body_is_415(administrator, kind: str) -> None:
    fields_of(post(administrator, "/v1/customers", b"{}", **{"Content-Type": kind}), 415)


def test_a_compressed_body_is_415(administrator) -> None:
    fields_of(post(administrator, "/v1/customers", b"\x1f\x8b", **{"Content-Encoding": "gzip"}), 415)


def test_more_than_a_megabyte_is_413_with_and_without_a_length(administrator) -> None:
    body = b'{"kind": "' + b"x" * MEGABYTE + b'"}'
    fields_of(post(administrator, "/v1/customers", body), 413)
    chunked = administrator.post(
        "/v1/customers", content=iter([body[:1000], body[1000:]]),
        headers={"Content-Type": "application/json", "Idempotency-Key": str(uuid4())},
    )  # fmt: skip
    assert "Content-Length" not in chunked.request.headers
    fields_of(chunked, 413)


def test_just_below_a_megabyte_is_read(administrator) -> None:
    body = b'{"kind": "' + b"x" * (MEGABYTE - 20) + b'"}'
    assert fields_of(post(administrator, "/v1/customers", body)) == ["kind"]


def test_a_flood_of_mistakes_is_answered_briefly(administrator) -> None:
    answer = register(administrator, names=[1] * 100_000)
    assert len(fields_of(answer)) == 100


def test_other_methods_are_405_and_say_which_there_are(administrator) -> None:
    answer = administrator.request("DELETE", "/v1/customers")
    assert fields_of(answer, 405) == []
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    fields_of(administrator.request("OPTIONS", "/v1/customers"), 405)
    fields_of(administrator.request("BREW", "/v1/customers"), 405)


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "11", "nan", "inf", "1e400"])
def test_a_bad_request_timeout_is_named(administrator, seconds: str) -> None:
    answer = administrator.get("/v1/customers", headers={"Request-Timeout": seconds})
    assert fields_of(answer) == ["Request-Timeout"]
    assert answer.json()["errors"][0]["in"] == "header"


@pytest.mark.parametrize("key", ["", "short", "x" * 101])
def test_a_bad_idempotency_key_is_named(administrator, key: str) -> None:
    headers = {"Idempotency-Key": key} if key else {}
    answer = administrator.post("/v1/customers", json=PERSON, headers=headers)
    assert fields_of(answer) == ["Idempotency-Key"]
    assert answer.json()["errors"][0]["in"] == "header"


@pytest.mark.parametrize("tag", ["3", "*", 'W/"3"', '"0"', '"-1"', '"1", "2"', '"9999999999"', '"one"'])
def test_a_bad_if_match_is_named(administrator, tag: str) -> None:
    answer = administrator.patch("/v1/customers/x", json={"gender": "MALE"}, headers={"If-Match": tag})
    assert fields_of(answer) == ["If-Match"]
