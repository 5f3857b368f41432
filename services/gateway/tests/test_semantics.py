"""What a client can build on: repeated writes, versions, pages, chosen fields, time limits."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

PASSING = {"date", "trace-id", "ratelimit", "connection", "server"}


def register(client: httpx.Client, body: dict[str, Any], key: str = "", **headers: str) -> httpx.Response:
    return client.post("/v1/customers", json=body, headers={"Idempotency-Key": key or str(uuid4()), **headers})


def lasting(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """What a repetition must give again: all but what belongs to the moment."""
    kept = {name: value for name, value in answer.headers.items() if name not in PASSING}
    return answer.status_code, answer.content, kept


def numbers(client: httpx.Client, phone: str) -> set[str]:
    found = client.get("/v1/customers:search", params={"query": phone}).json()["results"]
    return {one["customer"]["customer_number"] for one in found}


# --- idempotency -----------------------------------------------------------------------------------------------------


def test_a_repetition_gets_the_same_answer_to_the_byte(administrator, wang) -> None:
    key = str(uuid4())
    first = register(administrator, wang, key)
    administrator.patch(
        first.headers["Location"], json={"gender": "FEMALE"}, headers={"If-Match": first.headers["ETag"]}
    )
    again = register(administrator, wang, key)
    assert first.status_code == 201
    assert lasting(again) == lasting(first)


def test_twenty_at_once_with_one_key_make_one_customer(administrator, wang) -> None:
    key = str(uuid4())
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: register(administrator, wang, key), range(20)))
    done = {lasting(one)[:2] for one in answers if one.status_code == 201}
    others = [one for one in answers if one.status_code != 201]
    assert len(done) == 1
    assert {(one.status_code, one.json()["type"]) for one in others} <= {(409, "urn:guanxi:problem:still-running")}
    assert all(int(one.headers["Retry-After"]) >= 1 for one in others)
    assert len(numbers(administrator, wang["phones"][0]["number"])) == 1


def test_a_key_used_for_another_body_is_refused(administrator, wang) -> None:
    key = str(uuid4())
    assert register(administrator, wang, key).status_code == 201
    answer = register(administrator, {**wang, "gender": "FEMALE"}, key)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:guanxi:problem:key-reused")


def test_the_keys_of_two_callers_have_nothing_to_do_with_each_other(internal, administrator, wang) -> None:
    key = str(uuid4())
    one, other = register(administrator, wang, key), register(internal.client("store"), wang, key)
    assert (one.status_code, other.status_code) == (201, 201)
    assert one.json()["customer_id"] != other.json()["customer_id"]


def test_a_refused_write_may_be_repeated_with_its_key(administrator, wang) -> None:
    key = str(uuid4())
    assert register(administrator, {**wang, "birthday": "2999-01-01"}, key).status_code == 400
    assert register(administrator, wang, key).status_code == 201


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_change_needs_the_version_it_is_based_on(administrator, registered) -> None:
    path = f"/v1/customers/{registered['customer_id']}"
    missing = administrator.patch(path, json={"gender": "FEMALE"})
    stale = administrator.patch(path, json={"gender": "FEMALE"}, headers={"If-Match": '"7"'})
    assert (missing.status_code, missing.json()["type"]) == (428, "urn:guanxi:problem:precondition-required")
    assert (stale.status_code, stale.json()["type"]) == (412, "urn:guanxi:problem:version-mismatch")
    done = administrator.patch(path, json={"gender": "FEMALE"}, headers={"If-Match": '"1"'})
    assert (done.status_code, done.headers["ETag"], done.json()["gender"]) == (200, '"2"', "FEMALE")


def test_of_two_who_change_one_version_one_wins(administrator, registered) -> None:
    path = f"/v1/customers/{registered['customer_id']}"

    def change(interest: str) -> int:
        return administrator.patch(path, json={"interests": [interest]}, headers={"If-Match": '"1"'}).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(change, "abcdef")) == [200, 412, 412, 412, 412, 412]
    assert administrator.get(path).headers["ETag"] == '"2"'


def test_a_patch_changes_what_it_names_and_null_takes_away(administrator, registered) -> None:
    path = f"/v1/customers/{registered['customer_id']}"
    answer = administrator.patch(
        path, json={"birthday": None, "interests": ["chess"]}, headers={"If-Match": '"1"'}
    ).json()
    expected = {**registered, "interests": ["chess"], "version": 2, "update_time": answer["update_time"]}
    del expected["birthday"]
    assert answer == expected
    assert administrator.get(path).json() == answer


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', '"7", "1"', "*"])
def test_who_has_this_version_gets_no_body(administrator, registered, tag: str) -> None:
    path = f"/v1/customers/{registered['customer_id']}"
    answer = administrator.get(path, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", '"1"')


@pytest.mark.parametrize("tag", ['"2"', '"11"', '"01"'])
def test_who_has_another_version_gets_this_one(administrator, registered, tag: str) -> None:
    path = f"/v1/customers/{registered['customer_id']}"
    answer = administrator.get(path, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.json()) == (200, registered)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_what_was_created_is_read_where_the_answer_says(administrator, wang) -> None:
    answer = register(administrator, wang)
    assert administrator.get(answer.headers["Location"]).json() == answer.json()
    contact = {"contact": {"channel": "WEB", "direction": "INBOUND", "summary": "asked"}, "topic": "billing"}
    made = administrator.post(
        f"{answer.headers['Location']}/interactions", json=contact, headers={"Idempotency-Key": str(uuid4())}
    )
    assert made.status_code == 201
    assert administrator.get(made.headers["Location"]).json() == made.json()


def test_pages_show_every_customer_once(administrator, registered, wang) -> None:
    for _ in range(4):
        register(administrator, wang)
    seen: list[str] = []
    query = {"page_size": 3, "fields": "customers.customer_number,next_page_token"}
    token = ""
    while not seen or token:
        page = administrator.get("/v1/customers", params={**query, "page_token": token}).json()
        assert len(page["customers"]) <= 3
        seen += [one["customer_number"] for one in page["customers"]]
        token = page["next_page_token"]
    assert len(seen) == len(set(seen)) >= 5
    assert seen == sorted(seen)
    assert numbers(administrator, wang["phones"][0]["number"]) <= set(seen)


def test_a_page_token_is_bound_to_its_query(administrator, registered, wang) -> None:
    register(administrator, wang)
    token = administrator.get("/v1/customers", params={"page_size": 1}).json()["next_page_token"]
    query = {"page_size": 1, "page_token": token}
    assert administrator.get("/v1/customers", params=query).status_code == 200
    for changed in ({**query, "kind": "ORGANIZATION"}, {**query, "page_token": token[:-2] + "AA"}):
        answer = administrator.get("/v1/customers", params=changed)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "page_token")


def test_only_the_fields_asked_for_come(administrator, registered) -> None:
    path = f"/v1/customers/{registered['customer_id']}"
    chosen = administrator.get(path, params={"fields": "kind,names.full,phones"}).json()
    assert chosen == {"kind": "PERSON", "names": [{"full": "王芳"}], "phones": registered["phones"]}
    assert administrator.get(path, params=[("fields", "kind"), ("fields", "version")]).json() == {
        "kind": "PERSON",
        "version": 1,
    }
    assert administrator.get(path, params={"fields": ""}).json() == registered


def test_a_written_thing_can_be_answered_in_part(administrator, wang) -> None:
    key = str(uuid4())
    answer = administrator.post("/v1/customers?fields=version", json=wang, headers={"Idempotency-Key": key})
    assert answer.json() == {"version": 1}


def test_a_long_answer_is_compressed_for_who_takes_it(administrator, registered, wang) -> None:
    for _ in range(5):
        register(administrator, wang)
    answers = {}
    for encoding in ("gzip", "gzip;q=0", "identity"):
        with administrator.stream("GET", "/v1/customers", headers={"Accept-Encoding": encoding}) as answer:
            raw = b"".join(answer.iter_raw())
            answers[encoding] = answer.headers.get("Content-Encoding"), raw
    assert answers["gzip"][0] == "gzip"
    assert answers["gzip;q=0"] == answers["identity"] == (None, gzip.decompress(answers["gzip"][1]))
    assert json.loads(answers["identity"][1])["customers"]


def test_every_answer_tells_browsers_to_be_careful(administrator, internal) -> None:
    answers = [
        administrator.get("/v1/customers"),
        internal.with_headers().get("/v1/customers"),
        administrator.get("/x"),
    ]
    for one in answers:
        assert one.headers["X-Content-Type-Options"] == "nosniff"
        assert one.headers["Cache-Control"] == "no-store"
        assert one.headers["Content-Security-Policy"].startswith("default-src 'none'")


# --- time ------------------------------------------------------------------------------------------------------------


def test_too_little_time_changes_nothing(administrator, wang) -> None:
    key = str(uuid4())
    answer = register(administrator, wang, key, **{"Request-Timeout": "0.02"})
    assert (answer.status_code, answer.json()["type"]) == (504, "urn:guanxi:problem:deadline-exceeded")
    assert numbers(administrator, wang["phones"][0]["number"]) == set()
    assert register(administrator, wang, key).status_code == 201


def test_time_that_ends_inside_the_service_leaves_all_or_nothing(administrator, wang) -> None:
    key = str(uuid4())
    answer = register(administrator, wang, key, **{"Request-Timeout": "0.056"})
    assert answer.status_code in (201, 504)
    again = register(administrator, wang, key)
    assert again.status_code == 201
    assert len(numbers(administrator, wang["phones"][0]["number"])) == 1


def test_enough_time_is_enough(administrator) -> None:
    assert administrator.get("/v1/customers", headers={"Request-Timeout": "10"}).status_code == 200
