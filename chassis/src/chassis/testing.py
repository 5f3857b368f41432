"""For tests: a database of one's own on the real store, commands run on it, a service called over a real socket."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import uuid4

from google.protobuf.message import Message

from chassis import contract, events, identity, outbox, privacy, rpc
from chassis.events import Envelope, clock
from chassis.identity import Caller, Signer
from chassis.migrations import migrate
from chassis.rpc import Endpoint
from chassis.store import Schema, Store, connect, transact
from chassis.work import Work

R = TypeVar("R")


@contextmanager
def opened(uri: str, schema: Schema) -> Iterator[Store]:
    """A store with an empty database that has the schema; it is dropped at the end.

    The embedded store deletes a database row by row and lets nobody else work meanwhile; there it stays, and goes with
    the folder of the run.
    """
    name = f"test_{uuid4().hex[:12]}"
    store = connect(uri, name, token_secret=b"a secret of the tests", schema=schema)
    try:
        migrate(store, schema)
        yield store
    finally:
        if store.dialect != "secantus":
            store.client.drop_database(name)
        store.close()


def somebody(**changes: Any) -> Caller:
    """A caller who may do and see everything, but for the changes."""
    scopes = frozenset(one.scope for one in contract.operations())
    everything = Caller("staff:test", channel="WEB", roles=("test",), scopes=scopes, sees=privacy.EVERYTHING)
    return replace(everything, **changes)


def commit(
    store: Store, command: Callable[[Work], R], *, caller: Caller | None = None, now: datetime | None = None
) -> R:
    """What `command` returns from a work that was flushed and committed."""
    by, at = caller or somebody(), now or clock()

    def body(session: Any) -> R:
        work = Work(store=store, session=session, source="test", caller=by, now=at)
        answer = command(work)
        work.flush()
        return answer

    return transact(store, body)


def published(store: Store) -> list[Envelope]:
    """Every event in the outbox, sent or not, in the order it was written."""
    rows = sorted(store[outbox.COLLECTION].find({}), key=lambda row: row["_id"])
    return [events.from_document(one) for row in rows for one in row["events"]]


def free_port() -> int:
    """A TCP port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Client:
    """Calls a service as the gateway does."""

    stub: rpc.Stub
    signer: Signer
    address: str

    def call(self, request: Message, *, caller: Caller | None = None, seconds: float = 5.0) -> Any:
        """The answer to a request of any operation; raises the `Fault` it ends with."""
        token = self.signer.mint(caller or somebody(), clock())
        return self.stub.call(operation_of(request), request, token=token, seconds=seconds)


def operation_of(request: Message) -> contract.Operation:
    """The operation that takes this request."""
    return next(one for one in contract.operations() if one.method.input_type == request.DESCRIPTOR)


@contextmanager
def serving(name: str, store: Store, endpoints: dict[str, Endpoint] | Any) -> Iterator[Client]:
    """A service's operations on a socket of this machine."""
    private, public = identity.generate("test")
    port = free_port()
    server = rpc.Server(name, store, identity.load_verifier(public), endpoints).start(port, host="127.0.0.1")
    channel = rpc.channel(f"127.0.0.1:{port}")
    try:
        yield Client(rpc.Stub(channel), identity.load_signer(private), f"127.0.0.1:{port}")
    finally:
        channel.close()
        server.stop(0).wait()
