"""Collections of messages in MongoDB: declared indexes, and one way to run a transaction."""

from chassis.store.connection import Session, Store, clock, connect, missing_indexes, reachable, shape, verify
from chassis.store.declared import Collection, Document, Index, Schema, schema
from chassis.store.transactions import Duplicate, is_away, transact, unavailable

__all__ = [
    "Collection",
    "Document",
    "Duplicate",
    "Index",
    "Schema",
    "Session",
    "Store",
    "clock",
    "connect",
    "is_away",
    "missing_indexes",
    "reachable",
    "schema",
    "shape",
    "transact",
    "unavailable",
    "verify",
]
