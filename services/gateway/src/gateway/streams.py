"""Files through the gateway: uploads and downloads of any size pass in pieces and are never held whole."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from socket import socket
from threading import Lock
from typing import Any

from flask import Request, Response
from google.protobuf.message import Message
from werkzeug.exceptions import ClientDisconnected

from gateway import pace
from gateway.routes import Route

PIECE_BYTES = 256 * 1024
STREAM_SECONDS = 3600.0
PARTING_SECONDS = 0.2


class Upload:
    """A request body as a stream of the operation's messages, each with the path's fields.

    A message without data ends it: to a service, a stream that was broken off can look like one that came to its
    end. The call reads it in a thread of its own; `failure` is what went wrong there.
    """

    def __init__(self, route: Route, request: Request, variables: Mapping[str, str]) -> None:
        self._route, self._variables = route, variables
        self._stream, self._kind, self._length = request.stream, request.mimetype, request.content_length
        self._connection = pace.of(request.environ)
        self._reading, self._closed = Lock(), False
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[Message]:
        try:
            yield from self._messages()
        except Exception as error:
            self.failure = error
            raise

    def _messages(self) -> Iterator[Message]:
        taken = 0
        while data := self._read():
            taken += len(data)
            yield self._message(data)
        if self._closed:
            return  # the call is over, and nobody listens
        if self._length not in (None, taken):
            # A server may end the body as if it were whole; half a file must not be taken for one.
            raise ClientDisconnected
        yield self._message(b"")

    def _read(self) -> bytes:
        with self._reading:
            if self._closed:
                return b""
            pace.PACE.allow(self._connection, pace.PIECE_SECONDS)
            try:
                data: bytes = self._stream.read(PIECE_BYTES)
            finally:
                pace.PACE.rest(self._connection)
            return data

    def _message(self, data: bytes) -> Message:
        message: Any = self._route.operation.request(**self._variables)
        content = getattr(message, self._route.body)
        content.content_type, content.data = self._kind, data
        found: Message = message
        return found

    def close(self) -> None:
        """Lets nobody read any more: what is left of the body is the server's. A client who keeps a reader waiting is
        heard no more."""
        self._closed = True
        if not self._reading.acquire(timeout=PARTING_SECONDS):
            pace.deafen(self._connection)
            self._reading.acquire()
        self._reading.release()


def download(answers: Iterable[Any], connection: socket | None = None) -> Response:
    """A stream of HttpBody messages as one response. What fails before the first piece is raised here."""
    stream = iter(answers)
    first = next(stream, None)
    kind = first.content_type if first is not None else "application/octet-stream"
    bodies = _paced(chain([first] if first is not None else [], stream), connection)
    return Response(bodies, content_type=kind)


def _paced(answers: Iterable[Any], connection: socket | None) -> Iterator[bytes]:
    for one in answers:
        pace.PACE.allow(connection, pace.PIECE_SECONDS)
        yield one.data
        pace.PACE.rest(connection)
