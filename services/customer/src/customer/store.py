"""What the customer service keeps: collections, indexes, and the numbers it gives out."""

from threading import Lock
from typing import Any

from crm.customer.v1 import customer_pb2, transfer_pb2

from chassis import codec
from chassis.store import Collection, Document, Index, Schema, Store, schema
from customer.rules import terms

CUSTOMERS = Collection(
    "customers",
    customer_pb2.Customer,
    "customer_id",
    indexes=(
        Index("customer_number", unique=True, field="customer_number"),
        Index("_terms"),
        Index("update_time, customer_number"),  # exports of what has changed
    ),
    derive=lambda customer: {"_terms": terms.index_terms(customer, searchable=customer.attributes.keys())},
)
ATTRIBUTES = Collection("attributes", customer_pb2.Attribute, "key")


def interaction_position(interaction: customer_pb2.Interaction) -> str:
    """Where an interaction stands on its customer's timeline: unique, and ordered by its start."""
    return f"{position_of(interaction.start_time.ToMilliseconds())}{interaction.interaction_id}"


def position_of(milliseconds: int) -> str:
    """The beginning of the positions of all interactions that started at this instant."""
    return f"{milliseconds:014d}:"


def _derived(interaction: customer_pb2.Interaction) -> Document:
    words = " ".join((interaction.topic, interaction.outcome, *(one.summary for one in interaction.contacts)))
    channels = sorted({codec.enum_name(customer_pb2.Channel.DESCRIPTOR, one.channel) for one in interaction.contacts})
    return {
        "_position": interaction_position(interaction),
        "_terms": terms.summary_terms(words),
        "_channels": channels,
    }


INTERACTIONS = Collection(
    "interactions",
    customer_pb2.Interaction,
    "interaction_id",
    indexes=(
        Index("customer_id, _position"),
        # One matter at a time: whoever comes second continues what the first has opened.
        Index("customer_id, topic", unique=True, field="topic", where={"status": "OPEN"}),
    ),
    derive=_derived,
)
IMPORTS = Collection(
    "imports",
    transfer_pb2.ImportJob,
    "import_id",
    indexes=(Index("_position", unique=True, field="import_id"), Index("status")),
    derive=lambda job: {"_position": job.import_id},
)
FILES, REJECTED, COUNTERS = "import_files", "import_rejected", "counters"

SCHEMA: Schema = {
    **schema(CUSTOMERS, ATTRIBUTES, INTERACTIONS, IMPORTS),
    # {"import_id", "upload_id", "offset": first byte, "data", "at"}; gone when the job ends, at the latest in a week
    FILES: (Index("import_id, upload_id, offset", unique=True, field="offset"), Index("at", expire_seconds=7 * 86400)),
    # {"import_id", "line", "errors": [{"field", "reason"}], "row": as it came, "at"}
    REJECTED: (Index("import_id, line"), Index("at", expire_seconds=30 * 86400)),
    COUNTERS: (),
}


class Serials:
    """Serial numbers without gaps that matter: a process takes a block at a time and gives it out from memory."""

    def __init__(self, name: str, block: int = 100) -> None:
        self._name, self._block = name, block
        self._free: dict[str, list[int]] = {}  # by database
        self._lock = Lock()

    def take(self, store: Store, count: int = 1) -> list[int]:
        """The next `count` serial numbers, each given out once by all processes together."""
        with self._lock:
            free = self._free.setdefault(store.database.name, [])
            while len(free) < count:
                free += self._refill(store, max(self._block, count))
            taken, free[:count] = free[:count], []
        return taken

    def _refill(self, store: Store, size: int) -> range:
        # Outside any transaction: a number lost to an abort is cheaper than a queue for one document.
        found: Any = store[COUNTERS].find_one_and_update(
            {"_id": self._name}, {"$inc": {"last": size}}, upsert=True, return_document=True
        )
        return range(found["last"] - size + 1, found["last"] + 1)
