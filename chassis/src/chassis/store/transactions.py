"""One way to run a transaction, and what a failure of the store means."""

from collections.abc import Callable
from random import uniform
from time import monotonic, perf_counter, sleep
from typing import TypeVar

import pymongo
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    PyMongoError,
    WTimeoutError,
)
from pymongo.read_concern import ReadConcern

from chassis import metrics
from chassis.errors import Conflict, Unavailable
from chassis.store.connection import MAJORITY, Session, Store

R = TypeVar("R")
SNAPSHOT = ReadConcern("snapshot")
TRANSACTION_SECONDS = 5.0
LAST_SECONDS = 1.0  # for an abort or a commit when a transaction's own time is up
# No primary, stepping down, shutting down, out of disk, not enough members: of MongoDB's error_codes.yml.
_PASSING_CODES = frozenset({91, 189, 10107, 11600, 11602, 13435, 13436, 14031, 100, 262, 317})


class Duplicate(Conflict):
    """A unique index refused a write. It must leave the transaction as an exception (see `transact`)."""

    reason = "ALREADY_EXISTS"

    def __init__(self, *, collection: str, index: str, field: str) -> None:
        super().__init__(f"{field or index} is already taken")
        self.collection, self.index, self.field = collection, index, field


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
