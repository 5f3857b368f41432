"""Prepares a database for a release, before its processes start: indexes are created, stored documents brought along.

A form changes in three releases: the first reads both forms and writes the new one, its backfill brings the rest along,
and a later one forgets the old form. So old and new processes can run side by side at any moment.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic, sleep

import pymongo
from pymongo import UpdateOne
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import OperationFailure

from chassis import log
from chassis.store import Document, Index, Schema, Store, missing_indexes

COLLECTION = "migrations"
SCHEMA: Schema = {COLLECTION: ()}
BATCH = 500
NAMESPACE_EXISTS, INDEX_NOT_FOUND = 48, 27
MIGRATION_SECONDS = 4 * 3600.0  # an index on what there is already takes as long as it takes


@dataclass(frozen=True)
class Backfill:
    """Brings the documents of a collection to a new form, in the order of the unique indexed field `by`.

    `change` says what to set in a document; nothing where it has the new form already. It runs beside the service: a
    document that was changed meanwhile (its `version` tells) is read again.
    """

    name: str
    collection: str
    by: str
    change: Callable[[Document], Document]


def migrate(store: Store, schema: Schema, backfills: Iterable[Backfill] = ()) -> list[str]:
    """Creates what is declared and missing; returns the names of what it created. Run it before a rollout."""
    made = []
    with pymongo.timeout(MIGRATION_SECONDS):
        present = set(store.database.list_collection_names())
        for name, indexes in schema.items():
            if name not in present:
                _create_collection(store, name)
            for index in missing_indexes(store, name, indexes):
                _create(store[name], index)
                made.append(f"{name}.{index.name}")
        for one in backfills:
            made += [f"{one.name}: {bring_along(store, one)} documents"]
    return made


def bring_along(store: Store, backfill: Backfill) -> int:
    """Runs a backfill from where it was stopped, at half speed; returns how many documents it is known to
    have changed (a batch that was cut off is not counted)."""
    place = store[COLLECTION].find_one({"_id": backfill.name}) or {"position": None, "changed": 0, "done": False}
    while not place["done"]:
        started = monotonic()
        place = _next_batch(store, backfill, place)
        store[COLLECTION].replace_one({"_id": backfill.name}, {"_id": backfill.name, **place}, upsert=True)
        log.info("backfill", name=backfill.name, changed=place["changed"])
        sleep(monotonic() - started)  # the other half is for those who are at work
    return int(place["changed"])


def _next_batch(store: Store, backfill: Backfill, place: Document) -> Document:
    where = {} if place["position"] is None else {backfill.by: {"$gt": place["position"]}}
    found = list(store[backfill.collection].find(where).sort(backfill.by, 1).limit(BATCH))
    changed = sum(_bring(store[backfill.collection], backfill, one) for one in _chunks(found))
    position = found[-1][backfill.by] if found else place["position"]
    return {"position": position, "changed": place["changed"] + changed, "done": len(found) < BATCH}


def _chunks(found: list[Document]) -> Iterable[list[Document]]:
    return (found[start : start + 100] for start in range(0, len(found), 100))


def _bring(collection: MongoCollection[Document], backfill: Backfill, documents: list[Document]) -> int:
    """Changes these; those that somebody else changed in between once more."""
    changes = [(one, change) for one in documents if (change := backfill.change(one))]
    if not changes:
        return 0
    writes = [UpdateOne(_as_read(one), {"$set": change}) for one, change in changes]
    done = collection.bulk_write(writes).matched_count
    if done == len(changes):
        return done
    again = collection.find({"_id": {"$in": [one["_id"] for one, _ in changes]}})
    return done + _bring(collection, backfill, list(again))


def _as_read(one: Document) -> Document:
    return {"_id": one["_id"], "version": one.get("version")}


def _create_collection(store: Store, name: str) -> None:
    try:
        store.database.create_collection(name, check_exists=False)
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:  # a migration beside this one was faster
            raise


def _drop(collection: MongoCollection[Document], name: str) -> None:
    try:
        collection.drop_index(name)
    except OperationFailure as error:
        if error.code != INDEX_NOT_FOUND:  # a migration beside this one was faster
            raise


def _create(collection: MongoCollection[Document], index: Index) -> None:
    present = collection.index_information().get(index.name)
    if present is not None and not index.is_like(present):
        _drop(collection, index.name)
    collection.create_index(index.pairs, name=index.name, **index.options)
