"""Databases of this run only, so that a server that holds others (MONGODB_URI) is left as it was."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymongo

from chassis import store
from chassis.migrations import migrate
from chassis.store import Schema, Store

PREFIX = os.environ.setdefault("BENCH_PREFIX", f"bench_{uuid4().hex[:8]}_")
# What a process of the platform is told, so that it uses these databases as well: see `prefixed/sitecustomize.py`.
FOLDER = Path(__file__).resolve().parent / "prefixed"
DROP_SECONDS = 120.0
_connect = store.connect


def opened(uri: str, name: str, *, schema: Schema | None = None) -> Store:
    """A connection to this run's database of that name."""
    return _connect(uri, f"{PREFIX}{name}", token_secret=b"a secret of the bench", schema=schema)


def redirect() -> None:
    """Makes whatever this process connects from now on use this run's databases."""

    def connect(uri: str, name: str, **more: Any) -> Store:
        return _connect(uri, f"{PREFIX}{name}", **more)

    vars(store)["connect"] = connect


@contextmanager
def fresh(uri: str, name: str, schema: Schema) -> Iterator[Store]:
    """An empty database with this schema; dropped at the end where that is quick."""
    opened_store = opened(uri, f"{name}_{uuid4().hex[:8]}", schema=schema)
    try:
        migrate(opened_store, schema)
        yield opened_store
    finally:
        drop(opened_store)
        opened_store.close()


def drop(one: Store) -> None:
    """Drops a database; the embedded store deletes row by row, so there it goes with the folder of the run."""
    if one.dialect != "secantus":
        one.client.drop_database(one.database.name)


def drop_all(uri: str) -> None:
    """Drops every database of this run, however long it takes: for a server that stays."""
    one = opened(uri, "any")
    with pymongo.timeout(DROP_SECONDS):
        for name in one.client.list_database_names():
            if name.startswith(PREFIX):
                one.client.drop_database(name)
    one.close()
