"""Before a release: what is declared is made, and stored documents are brought to their new form."""

from collections.abc import Callable
from threading import Thread
from uuid import uuid4

import pytest
from crm.customer.v1 import customer_pb2
from pymongo.errors import DuplicateKeyError

from chassis import inbox, migrations, outbox, timers
from chassis.errors import Unavailable
from chassis.migrations import Backfill, migrate
from chassis.store import Collection, Document, Index, Store, connect, schema, verify

NOTES = Collection("notes", customer_pb2.Attribute, "key", indexes=(Index("label", unique=True), Index("options")))
SCHEMA = {**schema(NOTES), **migrations.SCHEMA}


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store(SCHEMA)


def test_a_migration_is_done_once_and_what_is_missing_is_named(mongodb_uri: str) -> None:
    fresh = connect(mongodb_uri, f"test_{uuid4().hex[:12]}", schema=SCHEMA)
    with pytest.raises(Unavailable, match=r"notes\.label_1, notes\.options_1: run the migrate role first"):
        verify(fresh, SCHEMA)
    assert migrate(fresh, SCHEMA) == ["notes.label_1", "notes.options_1"]
    assert migrate(fresh, SCHEMA) == []
    verify(fresh, SCHEMA)
    fresh.close()


def test_an_index_that_is_declared_otherwise_is_noticed_and_made_anew(mongodb_uri: str) -> None:
    name = f"test_{uuid4().hex[:12]}"
    before, after = ({"notes": (Index("label", unique=unique),)} for unique in (False, True))
    opened = connect(mongodb_uri, name, schema=after)
    migrate(opened, before)
    with pytest.raises(Unavailable, match=r"notes\.label_1"):
        verify(opened, after)
    assert migrate(opened, after) == ["notes.label_1"]
    verify(opened, after)
    opened["notes"].insert_one({"_id": 1, "label": "x"})
    with pytest.raises(DuplicateKeyError):
        opened["notes"].insert_one({"_id": 2, "label": "x"})
    opened.close()


def test_migrations_at_the_same_moment_do_not_stand_in_each_others_way(mongodb_uri: str) -> None:
    name = f"test_{uuid4().hex[:12]}"
    wanted = {**SCHEMA, **outbox.SCHEMA, **inbox.SCHEMA, **timers.SCHEMA}
    opened = [connect(mongodb_uri, name, schema=wanted) for _ in range(4)]
    failures: list[Exception] = []

    def run(one: Store) -> None:
        try:
            migrate(one, wanted)
            verify(one, wanted)
        except Exception as error:
            failures.append(error)

    threads = [Thread(target=run, args=(one,)) for one in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one in opened:
        one.close()
    assert failures == []


def shout(document: Document) -> Document:
    return {} if "loud" in document else {"loud": document["label"].upper()}


LOUD = Backfill("notes are loud", NOTES.name, "label", shout)


def put(store: Store, count: int) -> None:
    store[NOTES.name].insert_many({"_id": f"k{one}", "label": f"n{one:04d}", "version": 1} for one in range(count))


def loud(store: Store) -> int:
    return sum("loud" in one for one in store[NOTES.name].find({"label": {"$gte": ""}}))


def test_a_backfill_brings_every_document_along_and_is_done_once(store: Store) -> None:
    put(store, 1200)
    assert migrations.bring_along(store, LOUD) == 1200
    assert loud(store) == 1200
    store[NOTES.name].insert_one({"_id": "new", "label": "zzz", "version": 1})
    assert migrations.bring_along(store, LOUD) == 1200  # what was written since is in the new form already
    assert loud(store) == 1200


def test_a_stopped_backfill_goes_on_where_it_was(store: Store) -> None:
    put(store, 1200)
    seen: list[str] = []

    def interrupted(document: Document) -> Document:
        seen.append(document["label"])
        if len(seen) == 700:
            raise KeyboardInterrupt
        return shout(document)

    with pytest.raises(KeyboardInterrupt):
        migrations.bring_along(store, Backfill(LOUD.name, LOUD.collection, LOUD.by, interrupted))
    again: list[str] = []
    resumed = Backfill(LOUD.name, LOUD.collection, LOUD.by, lambda one: again.append(one["label"]) or shout(one))
    migrations.bring_along(store, resumed)
    assert min(again) == "n0500"  # the first batch was not looked at again
    assert loud(store) == 1200


def test_a_backfill_does_not_undo_what_somebody_changes_at_that_moment(store: Store) -> None:
    put(store, 3)

    def meanwhile(document: Document) -> Document:
        if document["label"] == "n0001":
            changed = {"$set": {"label": "N0001 changed", "version": 2}}
            store[NOTES.name].update_one({"_id": "k1", "version": 1}, changed)
        return shout(document)

    migrations.bring_along(store, Backfill(LOUD.name, LOUD.collection, LOUD.by, meanwhile))
    assert store[NOTES.name].find_one({"_id": "k1"})["loud"] == "N0001 CHANGED"
    assert loud(store) == 3
