"""What clients did and what they were told: the one thing a checker may believe."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"


@dataclass
class Call:
    """One operation as its client saw it.

    `outcome` is ok (acknowledged), failed (refused: it has no effect) or unknown (it may have one). `record` and
    `version` are those of the answer; `read` is the version a change was based on. `digests` has one entry for each
    successful answer to this key: they must be the same.
    """

    number: int
    kind: str
    key: str
    marker: str
    client: str
    began: float
    target: str = ""
    read: int = 0
    request: dict[str, Any] = field(default_factory=dict)
    outcome: str = UNKNOWN
    status: int = 0
    record: str = ""
    version: int = 0
    attempts: int = 0
    ended: float = 0.0
    digests: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


class History:
    """All calls, in memory and as JSON Lines: a line when a call begins and one when it ends."""

    def __init__(self, path: Path) -> None:
        self.calls: list[Call] = []
        self._file = path.open("w", encoding="utf-8")
        self._lock = Lock()

    def begin(self, kind: str, key: str, marker: str, client: str, **more: Any) -> Call:
        """A call that is about to be made."""
        with self._lock:
            call = Call(len(self.calls), kind, key, marker, client, time.time(), **more)
            self.calls.append(call)
            self._write("began", call)
            return call

    def end(self, call: Call) -> None:
        """A call that is over for its client."""
        call.ended = time.time()
        with self._lock:
            self._write("ended", call)

    def _write(self, what: str, call: Call) -> None:
        self._file.write(json.dumps({"what": what, **asdict(call)}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Writes out what is left."""
        self._file.close()


def read(path: Path) -> Iterator[Call]:
    """The calls of a history that was kept; one without an end is unknown."""
    calls: dict[int, Call] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            row.pop("what")
            calls[row["number"]] = Call(**row)
    yield from calls.values()
