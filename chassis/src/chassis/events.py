"""An event on its way: the message of the contract, and the envelope that says whose it is and which in order."""

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message

from chassis import contract
from chassis.errors import Fault

PARTITIONS = 16
_PREFIX = "cloudEvents:"


@dataclass(frozen=True)
class Envelope:
    """One event. `seq` counts the events of its aggregate from 1 without gaps; `body` is the protobuf message."""

    event_id: str
    type: str
    aggregate_id: str
    seq: int
    occurred: datetime
    source: str
    traceparent: str
    body: bytes

    @property
    def partition(self) -> int:
        """The ordered stream the aggregate belongs to."""
        return partition(self.aggregate_id)

    @property
    def routing_key(self) -> str:
        """Full name of the message, and the partition as the last word."""
        return f"{self.type}.{self.partition}"

    def headers(self) -> dict[str, Any]:
        """CloudEvents attributes as AMQP headers (binary mode)."""
        attributes = {
            "specversion": "1.0",
            "id": self.event_id,
            "type": self.type,
            "source": self.source,
            "subject": self.aggregate_id,
            "time": self.occurred.isoformat(timespec="milliseconds"),
            "sequence": self.seq,
            "traceparent": self.traceparent,
        }
        return {_PREFIX + name: value for name, value in attributes.items()}

    def message(self) -> Message:
        """The event itself; raises `Fault` where this process does not know its contract."""
        kind = contract.events().get(self.type)
        if kind is None:
            raise Fault(f"no contract for the event {self.type}", reason="UNKNOWN_EVENT")
        return kind.FromString(self.body)

    def document(self) -> dict[str, Any]:
        """The envelope as it is stored."""
        return dict(vars(self))


def from_headers(headers: Mapping[str, Any], body: bytes) -> Envelope:
    """The envelope that `headers()` wrote; raises KeyError or ValueError where one is not ours."""
    occurred = datetime.fromisoformat(str(headers[_PREFIX + "time"]))
    if occurred.tzinfo is None:
        raise ValueError("the time of an event has a zone")
    return Envelope(
        event_id=str(headers[_PREFIX + "id"]),
        type=str(headers[_PREFIX + "type"]),
        aggregate_id=str(headers[_PREFIX + "subject"]),
        seq=int(str(headers[_PREFIX + "sequence"])),
        occurred=occurred,
        source=str(headers[_PREFIX + "source"]),
        traceparent=str(headers.get(_PREFIX + "traceparent", "")),
        body=body,
    )


def from_document(document: Mapping[str, Any]) -> Envelope:
    """The envelope that `document()` wrote."""
    return Envelope(**{name: document[name] for name in Envelope.__dataclass_fields__})


def seal(event: Message, *, seq: int, source: str, now: datetime, traceparent: str) -> Envelope:
    """Puts an event into its envelope; the contract says which field holds the aggregate's id."""
    options = contract.event_options(event.DESCRIPTOR)
    if options is None:
        raise TypeError(f"{event.DESCRIPTOR.full_name} is not declared as an event")
    return Envelope(
        event_id=uuid7(now),
        type=event.DESCRIPTOR.full_name,
        aggregate_id=str(contract.read(event, options.key)),
        seq=seq,
        occurred=now,
        source=source,
        traceparent=traceparent,
        body=event.SerializeToString(),
    )


def partition(aggregate_id: str) -> int:
    """Which of the `PARTITIONS` ordered streams an aggregate belongs to; the same for ever."""
    return zlib.crc32(aggregate_id.encode()) % PARTITIONS


def uuid7(now: datetime) -> str:
    """A new identifier that sorts by time (RFC 9562, version 7)."""
    millis = int(now.timestamp() * 1000)
    value = millis.to_bytes(6, "big") + os.urandom(10)
    digits = bytes((*value[:6], value[6] & 0x0F | 0x70, value[7], value[8] & 0x3F | 0x80, *value[9:])).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def clock() -> datetime:
    """Now, as the stores keep it: UTC in whole milliseconds."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
