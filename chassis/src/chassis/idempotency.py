"""A command runs once: state, events, audit entry and its answer are one transaction, keyed by the request's id.

The same key with the same request returns the stored answer for 72 hours; with another request it is refused; while
the first is still running the second waits a moment, then is told so.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from time import monotonic, sleep
from typing import Any, TypeVar

from google.protobuf.message import Message
from pymongo.errors import OperationFailure

from chassis import trace
from chassis.contract import Operation
from chassis.errors import Conflict, DeadlineExceeded, Fault, Unavailable
from chassis.events import clock
from chassis.identity import Caller
from chassis.store import Duplicate, Index, Schema, Session, Store, transact
from chassis.work import Work

M = TypeVar("M", bound=Message)

REQUESTS = "requests"
KEPT_SECONDS = 72 * 3600
SCHEMA: Schema = {REQUESTS: (Index("at", expire_seconds=KEPT_SECONDS),)}
WRITE_CONFLICT = 112
WAIT_SECONDS, PAUSE_SECONDS = 1.0, 0.05
MOST_TRANSACTION_SECONDS = 5.0


def execute(
    store: Store, operation: Operation, caller: Caller, request: Message, run: Callable[[Work], M], *,
    source: str, remaining: Callable[[], float],
) -> M:  # fmt: skip
    """The answer of `run`, or the one it gave before. `remaining` is the caller's time in seconds.

    Whether it ran before is asked only where that can be: its key is taken, or what it finds makes no sense any more,
    perhaps by its own doing. A first call pays nothing for it.
    """
    request_id: str = getattr(request, "request_id", "")
    key = _key(operation, caller, request_id)

    def body(session: Session) -> M:
        work = begin(store, session, caller, source=source, operation=operation.name, request_id=request_id)
        answer = run(work)
        _reserve(store, session, key, request, answer, work.now)
        work.flush()
        if remaining() <= 0:
            raise _late()
        return answer

    def attempt() -> M:
        left = remaining()
        if left <= 0:
            raise _late()
        return transact(store, body, seconds=min(left, MOST_TRANSACTION_SECONDS))

    answer: M = _answered(attempt, lambda: _known(store, key, operation, request))
    return answer


def _answered(attempt: Callable[[], M], known: Callable[[], M | None]) -> M:
    ends = monotonic() + WAIT_SECONDS
    while True:
        try:
            return _once_more(attempt)
        except (Unavailable, DeadlineExceeded):
            raise
        except (_Running, Fault) as stumbled:
            before = known()
            if before is not None:
                return before
            if isinstance(stumbled, Fault):
                raise
            if monotonic() > ends:
                raise _still_running() from None
        sleep(PAUSE_SECONDS)  # whoever holds the key commits, or gives up and leaves it to us


def _still_running() -> Conflict:
    return Conflict("a request with this key is still running", reason="STILL_RUNNING", retry_after=1)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the caller's time ran out; nothing was changed")


def _once_more(attempt: Callable[[], M]) -> M:
    # Losing a race for a unique key is tried again once: the command then sees the winner and decides.
    try:
        return attempt()
    except Duplicate as duplicate:
        if duplicate.collection == REQUESTS:
            raise _Running from duplicate
    try:
        return attempt()
    except Duplicate as duplicate:
        if duplicate.collection == REQUESTS:
            raise _Running from duplicate
        raise


def begin(store: Store, session: Session, caller: Caller, *, source: str, operation: str, request_id: str = "") -> Work:
    """A work that knows who does what, and since when."""
    return Work(
        store=store,
        session=session,
        source=source,
        caller=caller,
        now=clock(),
        traceparent=trace.traceparent(),
        operation=operation,
        request_id=request_id,
    )


class _Running(Exception):
    """Another transaction holds the same key."""


def _key(operation: Operation, caller: Caller, request_id: str) -> str:
    return hashlib.sha256(f"{caller.subject}\0{operation.name}\0{request_id}".encode()).hexdigest()


def _fingerprint(request: Message) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _reserve(store: Store, session: Session, key: str, request: Message, answer: Message, now: datetime) -> None:
    # Before the other writes, so that the loser of two equal calls stops here.
    record = {"_id": key, "fingerprint": _fingerprint(request), "answer": answer.SerializeToString(), "at": now}
    try:
        store[REQUESTS].insert_one(record, session=session)
    except OperationFailure as error:
        if error.code == WRITE_CONFLICT:
            raise _Running from error
        raise


def _known(store: Store, key: str, operation: Operation, request: Message) -> Any:
    record = store[REQUESTS].find_one({"_id": key})
    if record is None:
        return None
    if record["fingerprint"] != _fingerprint(request):
        raise Conflict("this key was used for a different request", reason="KEY_REUSED")
    return operation.response.FromString(record["answer"])
