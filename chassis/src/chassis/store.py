"""Collections of messages in MongoDB: declared indexes, and one way to run a transaction."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import uniform
from time import monotonic, perf_counter, sleep
from typing import Any, Generic, TypeVar

import pymongo
from google.protobuf.message import Message
from pymongo import MongoClient, WriteConcern, monitoring
from pymongo.client_session import ClientSession
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    PyMongoError,
    WTimeoutError,
)
from pymongo.read_concern import ReadConcern

from chassis import codec, log, metrics
from chassis.errors import Conflict, Unavailable

M = TypeVar("M", bound=Message)
R = TypeVar("R")
Document = dict[str, Any]
Session = ClientSession

MAJORITY = WriteConcern("majority", j=True, wtimeout=5000)
SNAPSHOT = ReadConcern("snapshot")
TRANSACTION_SECONDS = 5.0
LAST_SECONDS = 1.0  # for an abort or a commit when a transaction's own time is up
SLOW_SECONDS = 0.2
# No primary, stepping down, shutting down, out of disk, not enough members: of MongoDB's error_codes.yml.
_PASSING_CODES = frozenset({91, 189, 10107, 11600, 11602, 13435, 13436, 14031, 100, 262, 317})
_OPTIONS = ("unique", "partialFilterExpression", "expireAfterSeconds")


@dataclass(frozen=True)
class Index:
    """An index as `"customer_id, -position"`. `field` is what the caller is told when a unique one is violated."""

    keys: str
    unique: bool = False
    field: str = ""
    where: Document | None = None
    expire_seconds: int | None = None

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """The keys as the driver wants them."""
        names = [name.strip() for name in self.keys.split(",")]
        return [(name.removeprefix("-"), -1 if name.startswith("-") else 1) for name in names]

    def is_like(self, present: Mapping[str, Any]) -> bool:
        """Whether an index that the database has is the one declared."""
        return {name: present[name] for name in _OPTIONS if present.get(name) not in (None, False)} == self.options

    @property
    def options(self) -> Document:
        """What the database is told beside the keys."""
        values = (self.unique or None, self.where, self.expire_seconds)
        return {name: value for name, value in zip(_OPTIONS, values, strict=True) if value is not None}

    @property
    def name(self) -> str:
        """Derived from the keys: an index with other options takes the place of the one before."""
        return "_".join(f"{name}_{direction}" for name, direction in self.pairs)


@dataclass(frozen=True)
class Collection(Generic[M]):
    """Where messages of one kind are kept, under the value of their field `key`.

    `derive` adds what queries need and the message does not hold; such keys begin with an underscore.
    """

    name: str
    kind: type[M]
    key: str
    indexes: tuple[Index, ...] = ()
    derive: Callable[[M], Document] | None = None

    def document(self, message: M) -> Document:
        """The message as it is stored."""
        document = codec.to_document(message)
        document["_id"] = document.pop(self.key)
        if self.derive is not None:
            document |= self.derive(message)
        return document

    def message(self, document: Mapping[str, Any]) -> M:
        """The message a document holds."""
        return codec.from_document(self.kind, {**document, self.key: document["_id"]})


Schema = Mapping[str, tuple[Index, ...]]


def schema(*collections: Collection[Any]) -> Schema:
    """The indexes of these collections by collection name."""
    return {one.name: one.indexes for one in collections}


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


class Duplicate(Conflict):
    """A unique index refused a write. It must leave the transaction as an exception (see `transact`)."""

    reason = "ALREADY_EXISTS"

    def __init__(self, *, collection: str, index: str, field: str) -> None:
        super().__init__(f"{field or index} is already taken")
        self.collection, self.index, self.field = collection, index, field


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


def transact(store: Store, body: Callable[[Session], R], *, seconds: float = TRANSACTION_SECONDS) -> R:
    """Runs `body` in one majority-committed transaction, again when the server asks for it, within `seconds`.

    The body may run several times: no remote call, clock or chance inside. A duplicate key leaves it as
    `Duplicate`; catching that inside the body would make the driver repeat an aborted transaction for ever.
    """
    started = perf_counter()
    try:
        with store.client.start_session() as session:
            return _repeated(store, session, body, ends=monotonic() + seconds)
    except PyMongoError as error:
        if is_away(error):
            raise unavailable(error) from error
        raise
    finally:
        metrics.TRANSACTION_SECONDS.observe(perf_counter() - started)


def _repeated(store: Store, session: Session, body: Callable[[Session], R], *, ends: float) -> R:
    # Not the driver's `with_transaction`: that cannot abort once its time is up, and the transaction would keep its
    # locks until the server gives it up; nor does it end before two minutes.
    attempt = 0
    while True:
        session.start_transaction(SNAPSHOT, MAJORITY)
        try:
            with pymongo.timeout(max(ends - monotonic(), LAST_SECONDS)):
                result = _named(store, lambda: body(session))
            _commit(session, ends)
            return result
        except PyMongoError as error:
            pause = uniform(0, min(0.005 * 1.5**attempt, 0.5))
            if not error.has_error_label("TransientTransactionError") or monotonic() + pause > ends:
                raise
        finally:
            _abort(session)
        sleep(pause)
        attempt += 1


def _commit(session: Session, ends: float) -> None:
    """Commits, again while the outcome is unknown: until `ends`, but in any case for a moment."""
    with pymongo.timeout(max(ends - monotonic(), LAST_SECONDS)):
        while True:
            try:
                return session.commit_transaction()
            except PyMongoError as error:
                if not error.has_error_label("UnknownTransactionCommitResult") or error.timeout:
                    raise


def _abort(session: Session) -> None:
    if session.in_transaction:
        with pymongo.timeout(LAST_SECONDS):
            session.abort_transaction()


def is_away(error: PyMongoError) -> bool:
    """Whether the store did not answer, or not in time, or cannot write now: the same later may well succeed.

    Whatever else it refuses (a document too large, a value of the wrong type) it would refuse again.
    """
    labels = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")
    passing = isinstance(error, ConnectionFailure | ExecutionTimeout | WTimeoutError) or error.timeout
    return passing or any(map(error.has_error_label, labels)) or getattr(error, "code", None) in _PASSING_CODES


def unavailable(error: PyMongoError) -> Unavailable:
    """What a caller is told when the store does not answer or refuses."""
    metrics.STORE_UNAVAILABLE.inc()
    return Unavailable(f"the store did not take this ({type(error).__name__})", retry_after=1)


def _named(store: Store, body: Callable[[], R]) -> R:
    try:
        return body()
    except (DuplicateKeyError, BulkWriteError) as error:
        duplicate = _duplicate(store, error)
        if duplicate is None:
            raise
        raise duplicate from error


def _duplicate(store: Store, error: DuplicateKeyError | BulkWriteError) -> Duplicate | None:
    details = error.details or {}
    first = (details.get("writeErrors") or [details])[0]
    if first.get("code") != 11000:
        return None
    words = first["errmsg"].partition("collection: ")[2].split()
    collection, index = words[0].partition(".")[2], words[2]
    return Duplicate(collection=collection, index=index, field=store.unique_fields.get(f"{collection}.{index}", ""))
