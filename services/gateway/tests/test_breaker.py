"""When a service is asked no more, and when again."""

from collections import deque
from threading import BoundedSemaphore
from time import monotonic, sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onebox
from chassis import rpc
from chassis.errors import DeadlineExceeded, Exhausted, Fault, NotFound, Unavailable
from gateway import upstreams
from gateway.breaker import LEAST_CALLS, OPEN_SECONDS, WINDOW_SECONDS, Breaker
from gateway.upstreams import Upstream

GET = "/v1/customers/C1"
FRESHNESS = "/v1/analytics/freshness"


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def watch() -> Watch:
    return Watch()


def opened(watch: Watch) -> Breaker:
    found = Breaker(watch)
    for _ in range(LEAST_CALLS):
        found.note(failed=True)
    assert found.open
    return found


def test_it_opens_when_half_of_twenty_calls_failed_and_not_before(watch: Watch) -> None:
    one = Breaker(watch)
    for number in range(LEAST_CALLS):
        assert one.admits()
        turned = one.note(failed=number % 2 == 1)
        assert turned == one.open == (number == LEAST_CALLS - 1)


def test_fewer_than_half_or_fewer_than_twenty_leave_it_closed(watch: Watch) -> None:
    few, seldom = Breaker(watch), Breaker(watch)
    for number in range(LEAST_CALLS - 1):
        few.note(failed=True)
        seldom.note(failed=number % 3 == 0)
    seldom.note(failed=False)
    assert few.admits()
    assert seldom.admits()


def test_failures_of_long_ago_do_not_count(watch: Watch) -> None:
    one = Breaker(watch)
    for _ in range(LEAST_CALLS - 1):
        one.note(failed=True)
    watch.time += WINDOW_SECONDS + 0.1
    one.note(failed=True)
    assert one.admits()


def test_while_it_is_open_one_call_in_five_seconds_tries(watch: Watch) -> None:
    one = opened(watch)
    tried = []
    for tenth in range(1, 160):
        watch.time = 1000.0 + tenth / 10
        if one.admits():
            tried.append(tenth)
            one.note(failed=True)
    assert tried == [50, 100, 150]


def test_one_success_closes_it_and_what_failed_before_is_forgotten(watch: Watch) -> None:
    one = opened(watch)
    watch.time += OPEN_SECONDS
    assert one.admits()
    assert one.note(failed=False)
    for _ in range(LEAST_CALLS // 2 - 1):
        assert one.admits()
        one.note(failed=True)
    assert not one.open


CALLS = st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=200)


@settings(max_examples=200, deadline=None)
@given(CALLS)
def test_it_is_open_exactly_when_the_last_seconds_say_so(calls: list[tuple[float, bool]]) -> None:
    watch, recent, expected = Watch(), deque[tuple[float, bool]](), False
    one = Breaker(watch)
    for passed, failed in calls:
        watch.time += passed
        if not one.admits():
            continue
        one.note(failed=failed)
        if expected and not failed:
            expected = False
            recent.clear()
        recent.append((watch.time, failed))
        counted = [wrong for at, wrong in recent if at >= watch.time - WINDOW_SECONDS]
        if len(counted) >= LEAST_CALLS and sum(counted) * 2 >= len(counted):
            expected = True
        assert one.open == expected


# --- over sockets ----------------------------------------------------------------------------------------------------


def test_a_service_that_is_down_costs_nothing_after_a_while_and_is_found_when_it_is_back(stack) -> None:
    port = onebox.free_port()  # none that whoever tries to connect to it could get as its own
    client = stack.gateway(addresses={"customer": f"127.0.0.1:{port}"}).client("administrator")
    for _ in range(LEAST_CALLS):
        assert client.get(GET).status_code == 503
    waits = []
    for _ in range(10):
        started = monotonic()
        answer = client.get(GET)
        waits.append(monotonic() - started)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:guanxi:problem:down")
        assert answer.headers["Retry-After"] == "1"
    assert sorted(waits)[5] < 0.1
    assert client.get(FRESHNESS).status_code == 200
    server = stack.service("customer", {}, port=port)
    assert server == f"127.0.0.1:{port}"
    ends = monotonic() + 20
    while client.get(GET).status_code != 404:
        assert monotonic() < ends
        sleep(0.2)
    assert [client.get(GET).status_code for _ in range(5)] == [404] * 5


@pytest.fixture
def judged(watch: Watch, monkeypatch):
    """A service whose calls end, after some seconds, as the test says; and its breaker, for which no time passes."""
    clock = Watch()
    monkeypatch.setattr(upstreams, "monotonic", clock)
    stub = rpc.Stub(rpc.channel("127.0.0.1:1"))
    one = Upstream("x", stub, BoundedSemaphore(3), BoundedSemaphore(1), Breaker(watch))

    def call(error: Exception, seconds: float = 0.0) -> None:
        with pytest.raises(Fault), one.slot(one.slots):
            raise ended(error, seconds)

    def ended(error: Exception, seconds: float) -> Exception:
        clock.time += seconds
        return error

    return one, call


@pytest.mark.parametrize(
    "error", [NotFound("no"), Exhausted("full"), Unavailable("not yet", reason="NOT_YET"), DeadlineExceeded("short")]
)
def test_a_service_that_answers_or_had_no_time_to_is_not_down(judged, error: Exception) -> None:
    one, call = judged
    for _ in range(3 * LEAST_CALLS):
        call(error)
    assert not one.breaker.open


@pytest.mark.parametrize(("error", "seconds"), [(Unavailable("gone"), 0.0), (DeadlineExceeded("late"), 2.1)])
def test_a_service_that_is_gone_or_hangs_is_down(judged, error: Exception, seconds: float) -> None:
    one, call = judged
    for _ in range(LEAST_CALLS):
        call(error, seconds)
    assert one.breaker.open
    with pytest.raises(Unavailable, match="does not answer"), one.slot(one.slots):
        raise AssertionError("it was asked")


def test_a_call_that_had_no_time_does_not_prove_that_a_service_is_back(judged, watch: Watch) -> None:
    one, call = judged
    for _ in range(LEAST_CALLS):
        call(Unavailable("gone"))
    watch.time += OPEN_SECONDS
    call(DeadlineExceeded("short"), 0.1)
    assert one.breaker.open
    watch.time += OPEN_SECONDS
    call(NotFound("no"))
    assert not one.breaker.open


@pytest.mark.parametrize("places", ["slots", "streams"])
def test_a_refused_call_gives_its_place_back(judged, places: str) -> None:
    one, call = judged
    for _ in range(LEAST_CALLS):
        call(Unavailable("gone"))
    for _ in range(5):
        with pytest.raises(Unavailable, match="does not answer"), one.slot(getattr(one, places)):
            raise AssertionError("it was asked")
