"""OB-1: whatever happens on the way, a change is there with its events, answer and audit entry, or not at all."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from threading import Barrier, Event, Thread, Timer
from typing import Any
from uuid import uuid4

import pytest
from crm.customer.v1 import customer_pb2, events_pb2

from chassis import idempotency, outbox, testing, timers, work
from chassis.contract import operations
from chassis.errors import Conflict, DeadlineExceeded, NotFound
from chassis.identity import Caller
from chassis.migrations import migrate
from chassis.store import Collection, Duplicate, Index, Store, connect, schema
from chassis.work import Work

NOTES = Collection("notes", customer_pb2.Attribute, "key", indexes=(Index("label", unique=True, field="label"),))
SCHEMA = {**schema(NOTES), **outbox.SCHEMA, **work.SCHEMA, **idempotency.SCHEMA, **timers.SCHEMA}
DEFINE = next(one for one in operations() if one.method.name == "DefineAttribute")
NOTHING = {"notes": 0, "audit": 0, "requests": 0, "timers": 0, "events": 0}
ALL = {"notes": 2, "audit": 1, "requests": 1, "timers": 1, "events": 3}

# Runs the command in a process that dies at the n-th statement: before it is sent, or when it was answered.
CRASHING = """
import os, sys
from pymongo import monitoring
uri, name, at, moment = sys.argv[1:]

class Crash(monitoring.CommandListener):
    count = 0
    def started(self, event):
        if event.command_name in ("hello", "ismaster", "endSessions"):
            return
        Crash.count += 1
        if Crash.count == int(at) and moment == "before":
            os._exit(9)
    def succeeded(self, event):
        if Crash.count == int(at) and moment == "after" and event.command_name != "hello":
            os._exit(9)
    def failed(self, event):
        pass

monitoring.register(Crash())
from chassis import store
import test_work
test_work.call(store.connect(uri, name, schema=test_work.SCHEMA), "a")
"""


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store(SCHEMA)


def define(work: Work, request: customer_pb2.DefineAttributeRequest) -> customer_pb2.DefineAttributeResponse:
    """A command with everything in it: two events of one record, another record, a timer."""
    key, label = request.attribute.key, request.attribute.label
    first = customer_pb2.Attribute(key=key, label=label, version=2)
    second = customer_pb2.Attribute(key=f"{key}-twin", label=f"{label}-twin", version=1)
    defined, updated = events_pb2.AttributeDefined(attribute=first), events_pb2.AttributeUpdated(attribute=first)
    work.insert(NOTES, first, defined, updated)
    work.insert(NOTES, second, events_pb2.AttributeDefined(attribute=second))
    work.schedule("reminder", key, work.now)
    return customer_pb2.DefineAttributeResponse(attribute=first)


def call(
    store: Store, key: str, *, label: str = "", caller: Caller | None = None, remaining: Any = 5.0, run: Any = define
) -> customer_pb2.DefineAttributeResponse:
    request = customer_pb2.DefineAttributeRequest(request_id=f"request-{key}")
    request.attribute.key, request.attribute.label = key, label or key
    by = caller or testing.somebody()
    return idempotency.execute(
        store,
        DEFINE,
        by,
        request,
        lambda work: run(work, request),
        source="test",
        remaining=remaining if callable(remaining) else lambda: remaining,
    )


def state(store: Store) -> dict[str, int]:
    """How much of each kind there is."""
    names = (NOTES.name, work.AUDIT, idempotency.REQUESTS, timers.COLLECTION)
    return {name: store[name].count_documents({}) for name in names} | {"events": len(testing.published(store))}


def crashed(store: Store, uri: str, at: int, moment: str) -> bool:
    """Whether the command died at this statement; False when it has fewer."""
    paths = os.pathsep.join([os.path.dirname(__file__), *(path for path in sys.path if path)])
    command = [sys.executable, "-c", CRASHING, uri, store.database.name, str(at), moment]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 9), done.stderr
    return done.returncode == 9


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_at_any_statement_leaves_all_or_nothing(mongodb_uri: str, moment: str) -> None:
    found = []
    # A database each: the store needs a minute to give up the transaction of a dead process.
    while crashed(fresh := migrated(mongodb_uri), mongodb_uri, len(found) + 1, moment):
        found.append(state(fresh))
        if found[-1] == ALL:  # the answer got lost, the change did not: the client's second try finds it
            assert call(fresh, "a").attribute.version == 2
            assert state(fresh) == ALL
        fresh.close()
    assert len(found) >= 6
    assert all(one in (NOTHING, ALL) for one in found)
    assert found[:-1] == [NOTHING] * (len(found) - 1)
    assert found[-1] == (ALL if moment == "after" else NOTHING)


def migrated(uri: str) -> Store:
    fresh = connect(uri, f"crash_{uuid4().hex[:12]}", schema=SCHEMA)
    migrate(fresh, SCHEMA)
    return fresh


def test_versions_count_events(store: Store) -> None:
    note = customer_pb2.Attribute(key="a", label="a", version=5)
    with pytest.raises(ValueError, match="does not count its events"):
        testing.commit(store, lambda work: work.insert(NOTES, note, events_pb2.AttributeDefined(attribute=note)))
    with pytest.raises(ValueError, match="does not count its events"):
        testing.commit(store, lambda work: work.insert(NOTES, note))
    assert state(store) == NOTHING


def test_events_carry_who_they_belong_to_and_contiguous_numbers(store: Store) -> None:
    call(store, "a")
    found = {(one.aggregate_id, one.seq, one.type.rpartition(".")[2]) for one in testing.published(store)}
    assert found == {("a", 1, "AttributeDefined"), ("a", 2, "AttributeUpdated"), ("a-twin", 1, "AttributeDefined")}


def change(store: Store, key: str, label: str, *, version: int = 0) -> None:
    def body(work: Work) -> None:
        note = work.get(NOTES, key, version=version)
        note.label, note.version = label, note.version + 1
        work.replace(NOTES, note, events_pb2.AttributeUpdated(attribute=note))

    testing.commit(store, body)


def test_a_stale_version_is_a_conflict(store: Store) -> None:
    call(store, "a")
    change(store, "a", "b", version=2)
    with pytest.raises(Conflict) as caught:
        change(store, "a", "c", version=2)
    assert caught.value.reason == "VERSION_MISMATCH"
    with pytest.raises(NotFound):
        change(store, "nobody", "c")


def together(*bodies: Callable[[], object]) -> list[object]:
    """Runs bodies at the same moment; returns their results, exceptions included."""
    barrier, results = Barrier(len(bodies)), [None] * len(bodies)

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = bodies[index]()
        except Exception as error:
            results[index] = error

    threads = [Thread(target=run, args=(index,)) for index in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_writers_of_one_version_are_one_winner_and_one_conflict(store: Store) -> None:
    call(store, "a")
    for version in range(2, 8):
        tries = (partial(change, store, "a", f"{version}{mine}", version=version) for mine in "xy")
        results = together(*tries)
        assert sorted(type(one).__name__ for one in results) == ["Conflict", "NoneType"]
    assert store[NOTES.name].find_one({"_id": "a"})["version"] == 8
    assert sorted(one.seq for one in testing.published(store) if one.aggregate_id == "a") == list(range(1, 9))


def test_twenty_writers_on_one_record_lose_nothing(store: Store) -> None:
    call(store, "a")

    def insist(number: int) -> None:
        while True:
            try:
                return change(store, "a", str(number))
            except Conflict:
                continue

    assert together(*(lambda number=number: insist(number) for number in range(20))) == [None] * 20
    assert store[NOTES.name].find_one({"_id": "a"})["version"] == 22


def test_a_taken_unique_value_names_its_field_and_changes_nothing(store: Store) -> None:
    call(store, "a", label="same")
    before = state(store)
    with pytest.raises(Duplicate, match="label is already taken") as caught:
        call(store, "b", label="same")
    assert caught.value.field == "label"
    assert state(store) == before


# --- idempotency -----------------------------------------------------------------------------------------------------


def test_the_second_click_gets_the_first_answer(store: Store) -> None:
    assert call(store, "a") == call(store, "a")
    assert state(store) == ALL


def test_a_late_attempt_gets_the_answer_of_the_one_that_changed_what_it_is_based_on(store: Store) -> None:
    def late(_work: Work, _request: Any) -> None:
        call(store, "a")  # the first attempt, whose client had waited long enough, commits at this very moment
        raise Conflict("changed since you read it", reason="VERSION_MISMATCH")

    assert call(store, "a", run=late) == call(store, "a")
    assert state(store) == ALL


def test_a_key_whose_holder_gives_up_is_taken_over(store: Store) -> None:
    begun, inside, go_on = Event(), Event(), Event()

    def remaining() -> float:
        """Enough at the beginning; when all is written, it has run out."""
        if begun.is_set():
            inside.set()
            go_on.wait(10)
            return 0.0
        return 5.0

    def run(work: Work, request: customer_pb2.DefineAttributeRequest) -> customer_pb2.DefineAttributeResponse:
        begun.set()
        return define(work, request)

    holder = Thread(target=lambda: together(lambda: call(store, "a", run=run, remaining=remaining)))
    holder.start()
    assert inside.wait(10)
    Timer(0.3, go_on.set).start()
    assert call(store, "a").attribute.version == 2
    holder.join()
    assert state(store) == ALL


def test_a_key_used_for_something_else_is_refused(store: Store) -> None:
    call(store, "a")
    with pytest.raises(Conflict) as caught:
        call(store, "a", label="other")
    assert caught.value.reason == "KEY_REUSED"
    assert state(store) == ALL


def test_keys_of_different_callers_have_nothing_to_do_with_each_other(store: Store) -> None:
    call(store, "a")
    with pytest.raises(Duplicate):  # not the stored answer: the command runs and finds the record there
        call(store, "a", caller=testing.somebody(subject="channel:other"))


def test_twenty_clicks_at_once_have_one_effect(store: Store) -> None:
    results = together(*(lambda: call(store, "a") for _ in range(20)))
    answers = [one for one in results if not isinstance(one, Exception)]
    refused = [one for one in results if isinstance(one, Exception)]
    assert answers
    assert all(one == answers[0] for one in answers)
    assert all(isinstance(one, Conflict) and one.reason == "STILL_RUNNING" for one in refused)
    assert state(store) == ALL


def test_nothing_changes_for_a_caller_whose_time_is_up(store: Store) -> None:
    with pytest.raises(DeadlineExceeded):
        call(store, "a", remaining=-1.0)
    assert state(store) == NOTHING
