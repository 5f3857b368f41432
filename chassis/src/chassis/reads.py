"""Reads messages from the store: by key, by an indexed filter, page by page."""

import base64
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from google.protobuf.message import Message

from chassis.errors import NotFound, invalid
from chassis.store import Collection, Document, Index, Session, Store

M = TypeVar("M", bound=Message)
DEFAULT_PAGE = 50
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class Reader:
    """Reads messages, inside a transaction when it has a session."""

    store: Store
    session: Session | None = None

    def find_one(self, collection: Collection[M], where: Document) -> M | None:
        """The message the filter finds; None where there is none."""
        document = self.store[collection.name].find_one(where, session=self.session)
        return None if document is None else collection.message(document)

    def get(self, collection: Collection[M], key: str) -> M:
        """The message under this key; raises `NotFound`."""
        message = self.find_one(collection, {"_id": key})
        if message is None:
            raise NotFound(f"there is no {collection.kind.DESCRIPTOR.name} {key[:100]!r}")
        return message

    def find(self, collection: Collection[M], where: Document, *, limit: int = 0, order: str = "") -> list[M]:
        """The messages the filter finds, in the order of an index written as in `Index.keys`."""
        return [collection.message(one) for one in self.documents(collection, where, limit=limit, order=order)]

    def documents(
        self, collection: Collection[Any], where: Document, *, limit: int = 0, order: str = ""
    ) -> Iterator[Document]:
        """The documents themselves, for queries that need what `derive` added."""
        cursor = self.store[collection.name].find(where, session=self.session).limit(limit)
        yield from cursor.sort(Index(order).pairs) if order else cursor

    def page(
        self, collection: Collection[M], where: Document, *, by: str, size: int, token: str
    ) -> tuple[list[M], str]:
        """A page in the order of the unique field `by` (`-by` descends), and the token of the next one.

        The token is bound to the filter: with another filter, or altered, it is refused as `Invalid`.
        """
        name, descending = by.removeprefix("-"), by.startswith("-")
        size = size or DEFAULT_PAGE
        bound = _digest(where, by)
        if token:
            after = read_token(self.store.token_secret, token, bound)
            where = {**where, name: {**where.get(name, {}), "$lt" if descending else "$gt": after}}
        found = list(self.documents(collection, where, limit=size + 1, order=by))
        more = len(found) > size
        following = write_token(self.store.token_secret, found[size - 1][name], bound) if more else ""
        return [collection.message(one) for one in found[:size]], following


def _digest(where: Document, by: str) -> str:
    return hashlib.sha256(repr((where, by)).encode()).hexdigest()[:16]


def write_token(secret: bytes, position: Any, bound: str) -> str:
    """An opaque page token: where the page ended, for which query, signed."""
    body = orjson.dumps([position, bound])
    return base64.urlsafe_b64encode(_signature(secret, body) + body).decode().rstrip("=")


def read_token(secret: bytes, token: str, bound: str) -> Any:
    """The position in a page token; raises `Invalid` when it is not ours or belongs to another query."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        signature, body = raw[:16], raw[16:]
        if not hmac.compare_digest(signature, _signature(secret, body)):
            raise ValueError
        position, owner = orjson.loads(body)
    except ValueError:
        raise invalid("page_token", "is not a token this service gave out") from None
    if owner != bound:
        raise invalid("page_token", "belongs to another query") from None
    return position


def _signature(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, body, "sha256")[:16]


def beginning(store: Store, field: str, prefixes: Sequence[str]) -> Document:
    """A filter for lists of texts in which each prefix begins an element; it reads an index on the field.

    MongoDB keeps both bounds of a range on a multikey index only inside `$elemMatch`. The embedded store uses the index
    only for one plain range and no other condition, so there the filter finds more than it should: callers test what
    they were given.
    """
    ranges = [{"$gte": one, "$lt": one + _LAST} for one in prefixes]
    if store.dialect == "secantus":
        return {field: ranges[0]}
    return {"$and": [{field: {"$elemMatch": one}} for one in ranges]}
