"""Messages as store documents and as JSON; nothing that a message or a document carries is lost on the way."""

from chassis.codec.document import from_document, instant, to_document
from chassis.codec.json import from_json, merge_json, to_json
from chassis.codec.scalars import enum_name, enum_names

__all__ = ["enum_name", "enum_names", "from_document", "from_json", "instant", "merge_json", "to_document", "to_json"]
