"""How much a client may ask: shared by replicas, and nobody else's business."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import quota, store
from gateway.policy import Quota
from gateway.quota import Quotas
from gateway.store import SCHEMA

PATH = "/v1/customers:search?query=x"
LONG = 100_000  # seconds: a window that does not end while a test runs


@pytest.fixture
def still(monkeypatch) -> None:
    """Time stands still in the middle of a window, and the store may be slow."""
    monkeypatch.setattr(quota, "time", lambda: 10_050.0)
    monkeypatch.setattr(store, "STORE_SECONDS", 20.0)


def spent(replica: Quotas, client: str, given_quota: Quota, times: int) -> int:
    return sum(not replica.spend(client, given_quota).refused for _ in range(times))


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("requests", [1, 3, 19, 20, 21, 100, 107])
def test_replicas_give_out_exactly_the_quota_together(open_store, requests: int) -> None:
    store = open_store(SCHEMA)
    replicas, limit = [Quotas(store), Quotas(store)], Quota(requests, 100)
    assert sum(spent(replicas[turn % 2], "c", limit, 1) for turn in range(requests * 2 + 50)) == requests


@pytest.mark.usefixtures("still")
def test_threads_of_replicas_do_not_give_out_more_than_the_quota(open_store) -> None:
    store = open_store(SCHEMA)
    replicas, limit = [Quotas(store), Quotas(store)], Quota(120, 100)
    with ThreadPoolExecutor(8) as pool:
        given_out = list(pool.map(lambda turn: spent(replicas[turn % 2], "c", limit, 25), range(8)))
    assert sum(given_out) == 120


@pytest.mark.usefixtures("still")
def test_a_flood_of_one_client_leaves_the_quota_of_another_alone(open_store) -> None:
    replica, limit = Quotas(open_store(SCHEMA)), Quota(40, 100)
    assert spent(replica, "flood", limit, 500) == 40
    assert spent(replica, "other", limit, 500) == 40


def test_a_new_window_is_a_new_quota(open_store, monkeypatch) -> None:
    replica, limit = Quotas(open_store(SCHEMA)), Quota(5, 100)
    for moment in (10_050.0, 10_099.9, 10_100.0):
        monkeypatch.setattr(quota, "time", lambda moment=moment: moment)
        assert spent(replica, "c", limit, 9) == (0 if moment == 10_099.9 else 5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1e6))
def test_what_is_left_never_grows_and_the_end_is_ahead(quota_store, requests: int, moment: float) -> None:
    quota.time, real = lambda: moment, quota.time
    try:
        standing = Quotas(quota_store).spend(f"{requests}-{moment}", Quota(requests, 7))
    finally:
        quota.time = real
    assert not standing.refused
    assert 0 <= standing.left < requests
    assert 1 <= standing.resets <= 7


@pytest.fixture(scope="module")
def quota_store(stack):
    return stack.store


def test_every_answer_says_where_the_client_stands(internal) -> None:
    client = internal.client("web", quota={"requests": 3, "seconds": LONG})
    answers = [client.get(PATH) for _ in range(5)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429, 429]
    assert {one.headers["RateLimit-Policy"] for one in answers} == {f'"default";q=3;w={LONG}'}
    assert all(one.headers["RateLimit"].startswith('"default";r=0;t=') for one in answers[2:])
    refused = answers[-1]
    assert refused.json()["type"] == "urn:guanxi:problem:quota-exhausted"
    assert 1 <= int(refused.headers["Retry-After"]) <= LONG


def test_refused_requests_count_too(internal) -> None:
    client = internal.client("web", quota={"requests": 2, "seconds": LONG})
    statuses = [client.get(path).status_code for path in ("/v1/customers", "/v1/customers:search", PATH)]
    assert statuses == [403, 400, 429]


def test_two_gateways_share_the_quota_of_a_client(stack, internal) -> None:
    client = internal.client("web", quota={"requests": 4, "seconds": LONG})
    twin = stack.gateway("internal").with_headers(**{"X-Api-Key": client.headers["X-Api-Key"]})
    statuses = [one.get(PATH).status_code for one in (client, twin) * 4]
    assert sorted(statuses) == [200] * 4 + [429] * 4


def test_two_clients_have_a_quota_each(internal) -> None:
    one, other = (internal.client("web", quota={"requests": 1, "seconds": LONG}) for _ in range(2))
    assert [one.get(PATH).status_code, one.get(PATH).status_code, other.get(PATH).status_code] == [200, 429, 200]
