"""Keys of channels and partners: shown once, stored hashed, two live while one is being replaced."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.errors import DuplicateKeyError

from chassis.errors import Conflict, NotFound, Unauthenticated
from chassis.events import clock
from chassis.store import Document, Store
from gateway.store import CLIENTS

MARK = "gx"
LIVE_KEYS = 2
OVERLAP = timedelta(hours=24)


@dataclass(frozen=True)
class Client:
    """Who holds a key."""

    client_id: str
    kind: str
    roles: tuple[str, ...]
    quota: Document | None


def create(store: Store, client_id: str, *, kind: str, roles: list[str], quota: Document | None = None) -> str:
    """Registers a client and returns its first key, which is not stored and cannot be shown again."""
    key, entry = _new_key()
    document = {"_id": client_id, "kind": kind, "roles": roles, "disabled": False, "keys": [entry], "quota": quota}
    try:
        store[CLIENTS].insert_one(document)
    except DuplicateKeyError:
        raise Conflict(f"the client {client_id} exists: rotate its key instead", reason="ALREADY_EXISTS") from None
    return key


def rotate(store: Store, client_id: str) -> str:
    """Gives a client a new key; the one before works for another `OVERLAP`, older ones no more."""
    client = _client(store, client_id)
    key, entry = _new_key()
    ends = clock() + OVERLAP
    kept = sorted(client["keys"], key=lambda one: one["created"])[-(LIVE_KEYS - 1) :]
    kept = [one | {"expires": min(one.get("expires") or ends, ends)} for one in kept]
    store[CLIENTS].update_one({"_id": client_id}, {"$set": {"keys": [*kept, entry]}})
    return key


def disable(store: Store, client_id: str, *, disabled: bool = True) -> None:
    """Refuses every key of a client from now on, or takes it back; raises `NotFound`."""
    _client(store, client_id)
    store[CLIENTS].update_one({"_id": client_id}, {"$set": {"disabled": disabled}})


def authenticate(store: Store, key: str, now: datetime) -> Client:
    """The client that holds this key; raises `Unauthenticated`, the same way whatever is wrong with it."""
    mark, _, rest = key.partition("_")
    prefix, _, secret = rest.partition("_")
    found = store[CLIENTS].find_one({"keys.prefix": prefix}) if mark == MARK and secret else None
    entry = next((one for one in found["keys"] if one["prefix"] == prefix), None) if found else None
    matches = hmac.compare_digest(_hash(secret), entry["hash"] if entry else "")
    if not found or not entry or not matches or found["disabled"] or _expired(entry, now):
        raise Unauthenticated("this key is not valid", reason="BAD_KEY")
    return Client(found["_id"], found["kind"], tuple(found["roles"]), found.get("quota"))


def _expired(entry: Document, now: datetime) -> bool:
    ends = entry.get("expires")
    return ends is not None and bool(ends <= now)


def _client(store: Store, client_id: str) -> Any:
    found = store[CLIENTS].find_one({"_id": client_id})
    if found is None:
        raise NotFound(f"there is no client {client_id!r}")
    return found


def _new_key() -> tuple[str, Document]:
    prefix, secret = secrets.token_hex(5), secrets.token_urlsafe(32)
    return f"{MARK}_{prefix}_{secret}", {"prefix": prefix, "hash": _hash(secret), "created": clock()}


def _hash(secret: str) -> str:
    # The secret has 256 random bits, so a plain hash cannot be guessed back.
    return hashlib.sha256(secret.encode()).hexdigest()
