"""Log lines as JSON on standard error, each with its trace. Messages of contracts are never logged whole."""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson
from google.protobuf.message import Message

from chassis import trace

_logger = logging.getLogger("crm")


class _JsonLines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "message": record.getMessage(),
            "logger": record.name,
            "trace_id": trace.current_id(),
        }
        fields = getattr(record, "fields", {})
        return orjson.dumps(line | {name: _value(value) for name, value in fields.items()}).decode()


def _value(value: Any) -> Any:
    """What may stand in a log: numbers, short text, the kind and place of an error, the type of a message."""
    if isinstance(value, BaseException):
        place = traceback.extract_tb(value.__traceback__)[-1:]
        cause = {"cause": type(value.__cause__).__name__} if value.__cause__ is not None else {}
        return {"kind": type(value).__name__, "at": [f"{one.filename}:{one.lineno}" for one in place], **cause}
    if isinstance(value, Message):
        return value.DESCRIPTOR.full_name
    return value if isinstance(value, int | float | bool | None) else str(value)[:500]


def configure(service: str, level: str = "INFO") -> None:
    """Sends every log of this process through the one formatter. Call once, at start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("WARNING")
    _logger.setLevel(level)
    logging.getLogger("pika").setLevel("CRITICAL")  # a lost broker is told once, by who lost it


def info(message: str, **fields: Any) -> None:
    """Something worth knowing happened. Fields must hold no personal data."""
    _logger.info(message, extra={"fields": fields})


def warning(message: str, **fields: Any) -> None:
    """Something is not as it should be and mends itself."""
    _logger.warning(message, extra={"fields": fields})


def error(message: str, **fields: Any) -> None:
    """Something failed that somebody should look at."""
    _logger.error(message, extra={"fields": fields})
