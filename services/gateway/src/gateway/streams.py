"""Files through the gateway: uploads and downloads of any size pass in pieces and are never held whole."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from flask import Request, Response
from google.protobuf.message import Message

from gateway.routes import Route

PIECE_BYTES = 256 * 1024
STREAM_SECONDS = 3600.0


def pieces(route: Route, request: Request, variables: Mapping[str, str]) -> Iterator[Message]:
    """The request body as a stream of the operation's messages, each with the path's fields; at least one."""
    yield _piece(route, request, variables, request.stream.read(PIECE_BYTES))
    while data := request.stream.read(PIECE_BYTES):
        yield _piece(route, request, variables, data)


def _piece(route: Route, request: Request, variables: Mapping[str, str], data: bytes) -> Message:
    message: Any = route.operation.request(**variables)
    body = getattr(message, route.body)
    body.content_type, body.data = request.mimetype, data
    found: Message = message
    return found


def download(answers: Iterable[Any]) -> Response:
    """A stream of HttpBody messages as one response. What fails before the first piece is raised here."""
    stream = iter(answers)
    first = next(stream, None)
    kind = first.content_type if first is not None else "application/octet-stream"
    bodies = (one.data for one in chain([first] if first is not None else [], stream))
    return Response(bodies, content_type=kind)
