"""JSON bodies, read strictly: what two readers could understand differently is refused."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from threading import BoundedSemaphore
from typing import Any

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from chassis import metrics
from chassis.errors import Invalid, Unavailable, Violation, invalid
from gateway import intake, pace

MOST_BYTES = 1024 * 1024
LONG_AT_ONCE = 8  # threads that may be waiting for the rest of a body
_long = BoundedSemaphore(LONG_AT_ONCE)
_NUL = r"\u0000"
_MOST_DIGITS = 400
# Larger than any field takes, so that each refuses it by its own name.
_TOO_LARGE = 10**_MOST_DIGITS


def json_of(request: Request) -> Any:
    """The value in a request's body, `{}` where it is empty; raises `Invalid`, or 413 and 415 as Flask's exceptions."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("the body must be application/json")
    refuse_encoding(request)
    # A body without a length ends silently at the limit, so the limit is a byte more than what is taken.
    request.max_content_length = MOST_BYTES + 1
    data = request.get_data() if intake.holds(request.headers) else _long_body(request)
    if len(data) > MOST_BYTES:
        raise RequestEntityTooLarge
    return parsed(data)


def _long_body(request: Request) -> bytes:
    """A body that may still be on its way; raises `Unavailable` when enough others are."""
    if not _long.acquire(blocking=False):
        metrics.HTTP_REFUSED.labels("long_bodies").inc()
        raise Unavailable("too many long bodies are on their way", reason="BUSY", retry_after=1)
    connection = pace.of(request.environ)
    pace.PACE.allow(connection, pace.BODY_SECONDS)
    try:
        return request.get_data()
    finally:
        pace.PACE.rest(connection)
        _long.release()


def refuse_encoding(request: Request) -> None:
    """Raises 415 for a compressed body, which would be taken for what it is not."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType("the body must not be compressed")


def parsed(data: bytes) -> Any:
    """The JSON value in these bytes; raises `Invalid`."""
    try:
        text = data.decode()
        value = _decoder.decode(text or "{}")
    except UnicodeDecodeError:
        raise invalid("", "the body is not UTF-8") from None
    except RecursionError:
        raise invalid("", "the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise invalid("", f"the body is not JSON: {error.msg} at character {error.pos}") from None
    found = [Violation(path[:200], "holds a NUL character") for path in _with_nul(value)] if _NUL in text else []
    if found:
        raise Invalid(found)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if any("\ud800" <= one <= "\udfff" for name in found if not name.isascii() for one in name):
        raise invalid("", "a field's name holds half a surrogate pair")
    if len(found) < len(pairs):
        often = Counter(name for name, _ in pairs)
        raise Invalid(Violation(name[:200], "is given more than once") for name, times in often.items() if times > 1)
    return found


def _float(text: str) -> Any:
    value = float(text)
    return value if math.isfinite(value) else _TOO_LARGE


def _integer(text: str) -> int:
    return int(text) if len(text) < _MOST_DIGITS else _TOO_LARGE


def _constant(name: str) -> None:
    raise invalid("", f"the body is not JSON: {name} is no number")


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_integer, parse_constant=_constant
)  # fmt: skip


def _with_nul(value: Any) -> Iterator[str]:
    """Paths of the names and texts that hold a NUL; walked without recursion, since bodies may be deep."""
    waiting = [("", value)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, dict):
            waiting += [(f"{path}.{name}" if path else name, inner) for name, inner in item.items()]
            yield from (f"{path}.{name}".lstrip(".") for name in item if "\0" in name)
        elif isinstance(item, list):
            waiting += [(f"{path}[{index}]", inner) for index, inner in enumerate(item)]
        elif isinstance(item, str) and "\0" in item:
            yield path
