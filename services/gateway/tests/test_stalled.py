"""The gateway's own store does not answer: whoever needs it is told so at once, and all is well when it is back."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic, sleep
from urllib.parse import urlsplit

import httpx
import pytest

import onebox
from chaos.proxy import Network
from chassis import testing
from chassis.errors import Unavailable
from chassis.store import Store
from gateway import callers
from gateway.policy import Quota
from gateway.quota import Quotas
from gateway.store import SCHEMA, STORE_SECONDS

PATH = "/v1/customers:search?query=x"
BACK_SECONDS = 10  # after the store is back, everything is as before
ONE = Quota(1_000_000, 1)  # of which a slice is fetched every second


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    yield made
    sleep(0.5)  # until what was closed at one end is closed at the other
    made.close()


@pytest.fixture
def far(stack, network: Network) -> Iterator[Store]:
    """A store of its own behind a link called `store`."""
    found, port = urlsplit(stack.uri), onebox.free_port()
    network.add("store", port=port, target=(found.hostname or "", found.port or 0))
    with testing.opened(f"mongodb://127.0.0.1:{port}/?directConnection=true", SCHEMA) as store:
        yield store
        network.turn("store", "open")


def refused(quotas: Quotas, client: str) -> float:
    """The seconds after which a client is told that its quota cannot be looked up."""
    started = monotonic()
    with pytest.raises(Unavailable) as told:
        quotas.spend(client, ONE)
    assert told.value.retry_after == 1
    return monotonic() - started


@pytest.mark.parametrize("mode", ["hole", "cut"])
def test_a_store_that_stalls_costs_one_request_half_a_second_and_the_others_nothing(
    far: Store, network: Network, mode: str
) -> None:
    quotas = Quotas(far)
    assert not quotas.spend("before", ONE).refused
    network.turn("store", mode)
    assert refused(quotas, "first") < STORE_SECONDS + 1
    started = monotonic()
    waits = [refused(quotas, f"client-{number % 7}") for number in range(20)]
    assert monotonic() - started < STORE_SECONDS
    assert sorted(waits)[10] < 0.02


def test_while_it_stalls_one_request_at_a_time_tries(far: Store, network: Network) -> None:
    quotas = Quotas(far)
    quotas.spend("before", ONE)
    network.turn("store", "hole")
    refused(quotas, "first")
    sleep(STORE_SECONDS + 0.1)
    with ThreadPoolExecutor(16) as pool:
        waits = list(pool.map(lambda number: refused(quotas, f"c{number}"), range(16)))
    assert sum(wait > STORE_SECONDS / 2 for wait in waits) == 1


def test_quotas_are_spent_again_when_the_store_is_back(far: Store, network: Network) -> None:
    quotas = Quotas(far)
    quotas.spend("before", ONE)
    network.turn("store", "hole")
    refused(quotas, "first")
    network.turn("store", "open")
    ends = monotonic() + BACK_SECONDS
    while True:
        try:
            quotas.spend("first", ONE)
            break
        except Unavailable:
            assert monotonic() < ends
            sleep(0.1)
    assert not any(quotas.spend(f"c{number}", ONE).refused for number in range(20))


def ask(client: httpx.Client, until: float) -> list[tuple[int, float]]:
    """The status of each answer and how long it took."""
    found = []
    while monotonic() < until:
        started = monotonic()
        answer = client.get(PATH)
        found.append((answer.status_code, monotonic() - started))
        if answer.status_code == 503:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) >= 1
        sleep(0.02)
    return found


def test_a_gateway_whose_store_stalls_answers_everybody_in_time_and_recovers(
    stack, far: Store, network: Network, monkeypatch
) -> None:
    monkeypatch.setattr(callers, "KEY_SECONDS", 0.2)
    gateway = replace(stack, store=far).gateway(quota=ONE)
    clients = [gateway.client("administrator") for _ in range(12)]
    assert [client.get(PATH).status_code for client in clients] == [200] * 12
    network.turn("store", "hole")
    with ThreadPoolExecutor(12) as pool:
        until = monotonic() + 5
        answers = [one for found in pool.map(lambda client: ask(client, until), clients) for one in found]
    assert {status for status, _ in answers} <= {200, 503}
    assert sum(status == 503 for status, _ in answers) > len(answers) / 2
    assert max(seconds for _, seconds in answers) < 3
    assert sorted(seconds for _, seconds in answers)[len(answers) // 2] < 0.3
    network.turn("store", "open")
    ends = monotonic() + BACK_SECONDS
    while [client.get(PATH).status_code for client in clients] != [200] * 12:
        assert monotonic() < ends
        sleep(0.1)
