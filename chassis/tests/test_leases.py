"""Partitions are shared evenly and taken over from the dead."""

import time
from collections.abc import Callable

import pytest

from chassis import leases
from chassis.events import PARTITIONS
from chassis.leases import Leases
from chassis.store import Store


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store(leases.SCHEMA)


def settled(*workers: Leases) -> list[frozenset[int]]:
    """What everybody holds when all have swept some times."""
    for _ in range(4):
        for worker in workers:
            worker.sweep()
    return [worker.held() for worker in workers]


def test_one_worker_takes_everything(store: Store) -> None:
    assert settled(Leases(store, "a")) == [frozenset(range(PARTITIONS))]


def test_workers_share_evenly_and_no_partition_is_held_twice(store: Store) -> None:
    held = settled(*(Leases(store, name) for name in "abc"))
    assert sum(len(one) for one in held) == PARTITIONS
    assert frozenset().union(*held) == frozenset(range(PARTITIONS))
    assert max(len(one) for one in held) - min(len(one) for one in held) <= 2


def test_a_worker_that_comes_later_gets_its_share(store: Store) -> None:
    first, second = Leases(store, "a"), Leases(store, "b")
    settled(first)
    held = settled(first, second)
    assert [len(one) for one in held] == [8, 8]


def test_what_a_dead_worker_held_is_taken_over_when_its_lease_has_run_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_MILLIS", 1500)
    dead, alive = Leases(store, "dead"), Leases(store, "alive")
    settled(dead, alive)
    assert alive.sweep() != frozenset(range(PARTITIONS))
    ends = time.monotonic() + 15
    while alive.sweep() != frozenset(range(PARTITIONS)):
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_of_two_that_claim_at_once_the_epoch_lets_one(store: Store) -> None:
    one, other = Leases(store, "a"), Leases(store, "b")
    seen = one._create("partition:0")
    assert (one._take(dict(seen)), other._take(dict(seen))) == (True, False)
    assert store[leases.COLLECTION].find_one({"_id": "partition:0"})["holder"] == "a"


def test_a_worker_that_ends_gives_its_partitions_back_at_once(store: Store) -> None:
    from threading import Event

    first, second, stop = Leases(store, "a"), Leases(store, "b"), Event()
    stop.set()
    first.sweep()
    first.keep(stop)
    assert first.held() == frozenset()
    assert settled(second) == [frozenset(range(PARTITIONS))]
