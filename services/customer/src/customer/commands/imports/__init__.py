"""Import jobs: made, filled with a file, worked off batch by batch, ended."""

from customer.commands.imports.batches import Batch, Row, prepare, take_batch
from customer.commands.imports.jobs import (
    MOST_COLUMNS,
    Job,
    cancel_import,
    create_import,
    describe_mapping,
    finished,
    updates,
)
from customer.commands.imports.uploads import upload_import

__all__ = [
    "MOST_COLUMNS",
    "Batch",
    "Job",
    "Row",
    "cancel_import",
    "create_import",
    "describe_mapping",
    "finished",
    "prepare",
    "take_batch",
    "updates",
    "upload_import",
]
