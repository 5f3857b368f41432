"""A process and its database: connected, observed, and refused where a declared index is missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pymongo import MongoClient, WriteConcern, monitoring
from pymongo.client_session import ClientSession
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database
from pymongo.errors import (
    PyMongoError,
)

from chassis import log, metrics
from chassis.errors import Unavailable
from chassis.store.declared import Document, Index, Schema

Session = ClientSession

MAJORITY = WriteConcern("majority", j=True, wtimeout=5000)
SLOW_SECONDS = 0.2


@dataclass(frozen=True)
class Store:
    """A connection to one service's database."""

    client: MongoClient[Document]
    database: Database[Document]
    token_secret: bytes = b""
    dialect: str = "mongodb"
    unique_fields: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> MongoCollection[Document]:
        return self.database[name]

    def close(self) -> None:
        """Closes every connection."""
        self.client.close()


class _Observer(monitoring.CommandListener):
    """Measures every command, and tells of slow ones what they asked for: names of fields, never values.

    The driver demands a subclass.
    """

    def __init__(self) -> None:
        self._shapes: dict[int, str] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self._shapes[event.request_id] = shape(event.command_name, event.command)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        asked, seconds = self._shapes.pop(event.request_id, ""), event.duration_micros / 1e6
        metrics.STORE_SECONDS.labels(event.command_name).observe(seconds)
        if seconds > SLOW_SECONDS:
            metrics.STORE_SLOW.labels(asked).inc()
            log.warning("slow query", query=asked, milliseconds=round(seconds * 1000))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._shapes.pop(event.request_id, None)
        metrics.STORE_FAILURES.labels(event.command_name).inc()


def shape(command: str, document: Mapping[str, Any]) -> str:
    """What a command asks for, without any value: `find customers _terms,status sort customer_number`."""
    where, order = document.get("filter"), document.get("sort")
    parts = [command, str(document[command]) if isinstance(document.get(command), str) else ""]
    parts += [",".join(where)] if where else []
    parts += ["sort", ",".join(order)] if order else []
    return " ".join(one for one in parts if one)


def connect(uri: str, name: str, *, token_secret: bytes = b"", schema: Schema | None = None) -> Store:
    """Connects a process to its database; call it once a process and after any fork."""
    client: MongoClient[Document] = MongoClient(
        uri,
        tz_aware=True,
        w="majority",
        journal=True,
        wTimeoutMS=5000,
        maxPoolSize=50,
        serverSelectionTimeoutMS=5000,
        socketTimeoutMS=10000,
        appname=name,
        event_listeners=[_Observer()],
    )
    unique = {f"{at}.{one.name}": one.field for at, indexes in (schema or {}).items() for one in indexes if one.unique}
    dialect = "secantus" if client.admin.command("hello").get("setName") == "secantus" else "mongodb"
    database = client.get_database(name, write_concern=MAJORITY)
    return Store(client, database, token_secret, dialect, unique)


def reachable(store: Store) -> bool:
    """Whether a primary answers, so that this process can write."""
    try:
        return bool(store.client.admin.command("hello").get("isWritablePrimary"))
    except PyMongoError:
        return False


def clock(store: Store) -> datetime:
    """Now by the store's clock, which all workers share, in whole milliseconds. A worker's own may be wrong."""
    return store.client.admin.command("hello")["localTime"].replace(tzinfo=UTC)  # type: ignore[no-any-return]


def missing_indexes(store: Store, name: str, indexes: Iterable[Index]) -> list[Index]:
    """Declared indexes that the database does not have, or has with other options."""
    present = store[name].index_information()
    return [one for one in indexes if one.name not in present or not one.is_like(present[one.name])]


def verify(store: Store, schema: Schema) -> None:
    """Raises `Unavailable` when the database lacks a declared index: a service must not run without it."""
    missing = [
        f"{name}.{one.name}" for name, indexes in schema.items() for one in missing_indexes(store, name, indexes)
    ]
    if missing:
        raise Unavailable(f"the database lacks {', '.join(missing)}: run the migrate role first")
