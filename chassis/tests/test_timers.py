"""Timers fire once, when they are due, whoever fires them and whatever dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event as StopSignal
from threading import Thread
from typing import Any

import pytest

from chassis import outbox, testing, timers, work
from chassis.errors import NotFound
from chassis.events import clock
from chassis.store import Store
from chassis.work import Work

FIRED = "fired"
SCHEMA = {**timers.SCHEMA, **outbox.SCHEMA, **work.SCHEMA, FIRED: ()}
HOUR = timedelta(hours=1)

FIRING = """
import sys
from threading import Event
import test_timers
from chassis import timers
from chassis.store import connect
store = connect(sys.argv[1], sys.argv[2], schema=test_timers.SCHEMA)
timers.run(store, test_timers.HANDLERS, test_timers.beginning(store), Event())
"""


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store(SCHEMA)


def note(work: Work, key: str, payload: dict[str, Any]) -> None:
    work.put(FIRED, {"_id": work.new_id(), "key": key, "payload": payload})


def broken(_work: Work, _key: str, _payload: dict[str, Any]) -> None:
    raise NotFound("gone")


HANDLERS = {"note": note, "broken": broken}


def beginning(store: Store) -> Callable[[Any, str], Work]:
    def begin(session: Any, operation: str) -> Work:
        caller = testing.somebody(subject="service:test")
        return Work(store=store, session=session, source="test", caller=caller, now=clock(), operation=operation)

    return begin


def schedule(store: Store, *keys: str, kind: str = "note", after: timedelta = timedelta(0)) -> None:
    def body(work: Work) -> None:
        for key in keys:
            work.schedule(kind, key, work.now + after, {"of": key})

    testing.commit(store, body)


def fire(store: Store) -> int:
    return timers.fire_due(store, HANDLERS, beginning(store))


def fired(store: Store) -> list[str]:
    return sorted(one["key"] for one in store[FIRED].find({}))


def test_a_timer_fires_when_it_is_due_and_once(store: Store) -> None:
    schedule(store, "now")
    schedule(store, "later", after=HOUR)
    assert (fire(store), fire(store)) == (1, 0)
    assert fired(store) == ["now"]
    assert store[FIRED].find_one({})["payload"] == {"of": "now"}


def test_a_timer_is_moved_and_cancelled_with_its_transaction(store: Store) -> None:
    schedule(store, "moved", "cancelled", "kept")
    schedule(store, "moved", after=HOUR)
    testing.commit(store, lambda work: work.cancel("note", "cancelled"))

    def undone(work: Work) -> None:
        work.cancel("note", "kept")
        work.send()
        raise NotFound("the transaction is undone")

    with pytest.raises(NotFound):
        testing.commit(store, undone)
    fire(store)
    assert fired(store) == ["kept"]


def test_a_failing_timer_stands_in_nobodys_way(store: Store) -> None:
    schedule(store, "bad", kind="broken")
    schedule(store, "good")
    fire(store)
    assert fired(store) == ["good"]
    waiting = store[timers.COLLECTION].find_one({"kind": "broken"})
    assert timedelta(seconds=20) < waiting["due"] - clock() <= timedelta(seconds=timers.RETRY_SECONDS)


def test_workers_together_fire_each_timer_once(store: Store) -> None:
    schedule(store, *(f"t{number}" for number in range(60)))
    threads = [Thread(target=lambda: [fire(store) for _ in range(3)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fire(store)
    assert fired(store) == sorted(f"t{number}" for number in range(60))


@pytest.mark.slow
def test_a_worker_killed_while_firing_leaves_every_timer_to_fire_once(store: Store, mongodb_uri: str) -> None:
    schedule(store, *(f"t{number}" for number in range(80)))
    paths = os.pathsep.join([os.path.dirname(__file__), *(path for path in sys.path if path)])
    command = [sys.executable, "-c", FIRING, mongodb_uri, store.database.name]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}) as worker:
        while len(fired(store)) < 20:
            assert worker.poll() is None
            time.sleep(0.01)
        worker.send_signal(signal.SIGKILL)
    stop = StopSignal()
    other = Thread(target=timers.run, args=(store, HANDLERS, beginning(store), stop))
    other.start()
    ends = time.monotonic() + 150  # what the dead worker held is free when the store gives its transaction up
    while len(fired(store)) < 80 and time.monotonic() < ends:
        time.sleep(0.1)
    stop.set()
    other.join()
    assert fired(store) == sorted(f"t{number}" for number in range(80))


def test_many_pending_timers_do_not_slow_down_those_that_are_due(store: Store) -> None:
    def firing(count: int) -> float:
        schedule(store, *(f"due{count}-{number}" for number in range(10)))
        started = time.perf_counter()
        assert fire(store) == 10
        return time.perf_counter() - started

    firing(0)
    few = min(firing(number) for number in (1, 2, 3))
    later = clock() + HOUR
    for start in range(0, 20_000, 500):  # few at a time: a slow machine must answer each within the socket's time
        rows = [{"_id": f"far{start + n}", "kind": "note", "key": "x", "due": later, "payload": {}} for n in range(500)]
        store[timers.COLLECTION].insert_many(rows)
    many = min(firing(number) for number in (4, 5, 6))
    assert many < 10 * few
    assert "COLLSCAN" not in str(store[timers.COLLECTION].find({"due": {"$lte": clock()}}).sort("due", 1).explain())
