"""What a service declares it keeps: collections of messages, and their indexes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from chassis import codec

M = TypeVar("M", bound=Message)
Document = dict[str, Any]
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
