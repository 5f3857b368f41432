"""What the gateway keeps: the clients with their hashed keys, and how much of their quota they have used."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

import pymongo
from pymongo.errors import ConnectionFailure, PyMongoError

from chassis.errors import Unavailable
from chassis.store import Index, Schema

STORE_SECONDS = 0.5
CLIENTS, QUOTAS = "clients", "quotas"

SCHEMA: Schema = {
    # {"_id": client, "kind": "channel"|"partner", "roles": […], "disabled": bool, "quota": {…}?,
    #  "keys": [{"prefix", "hash", "created", "expires"?}]}
    CLIENTS: (Index("keys.prefix", unique=True, field="prefix", where={"keys.prefix": {"$exists": True}}),),
    # {"_id": "<client>:<window>", "used": int, "ends": datetime}
    QUOTAS: (Index("ends", expire_seconds=60),),
}


@dataclass
class Patience:
    """How long requests wait for the store: one of them half a second; the others are told at once that it stalls."""

    _until: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Bounds the calls of the store in it; raises `Unavailable` when it does not answer."""
        self._admit()
        stalled = False
        try:
            with pymongo.timeout(STORE_SECONDS):
                yield
        except PyMongoError as error:
            stalled = error.timeout or isinstance(error, ConnectionFailure)
            raise _no_answer() from error
        finally:
            self._until = monotonic() + STORE_SECONDS if stalled else 0.0

    def _admit(self) -> None:
        with self._lock:
            if self._until > monotonic():
                raise _no_answer()
            if self._until:  # this one tries; the others wait for what becomes of it
                self._until = monotonic() + 2 * STORE_SECONDS


def _no_answer() -> Unavailable:
    return Unavailable("clients and their quotas cannot be looked up at the moment", retry_after=1)
