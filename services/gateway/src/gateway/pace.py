"""How long a client may take: whoever dawdles over a request or an answer loses the connection, not a thread.

A read of a socket may wait for seconds and still bring a byte, so a limit on each read is none on the whole. Here each
connection that a thread is busy with has an instant by which it must have moved on.
"""

import socket
from contextlib import suppress
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

HEAD_SECONDS = 12.0  # to send a request, but for a long body; it is noticed a second or two later
BODY_SECONDS = 10.0  # to send a long body of JSON
PIECE_SECONDS = 30.0  # to send or take one piece of a file, or a whole answer
LOOK_SECONDS = 1.0
SOCKET = "gunicorn.socket"


class Pace:
    """The instants by which connections must have moved on; a thread of its own cuts off those that have not."""

    def __init__(self) -> None:
        self._until: dict[socket.socket, float] = {}
        self._lock = Lock()

    def allow(self, connection: socket.socket | None, seconds: float) -> None:
        """Gives a connection so many seconds from now; None is a server that keeps no pace."""
        if connection is not None:
            with self._lock:
                self._until[connection] = monotonic() + seconds

    def rest(self, connection: socket.socket | None) -> None:
        """It is us the client waits for now."""
        if connection is not None:
            with self._lock:
                self._until.pop(connection, None)

    def watch(self) -> None:
        """Cuts off dawdlers from now on."""
        Thread(target=self._watch, name="pace", daemon=True).start()

    def _watch(self) -> None:
        while not Event().wait(LOOK_SECONDS):
            with self._lock:
                late = [one for one, until in self._until.items() if until < monotonic()]
                for connection in late:
                    del self._until[connection]
                    with suppress(OSError):  # it may have gone by itself
                        connection.shutdown(socket.SHUT_RDWR)


PACE = Pace()


def of(environ: dict[str, Any]) -> socket.socket | None:
    """The connection of a request; None under a server that does not tell."""
    found: socket.socket | None = environ.get(SOCKET)
    return found


def deafen(connection: socket.socket | None) -> None:
    """Ends whatever waits for more from a client, which is still answered."""
    if connection is not None:
        with suppress(OSError):  # it may have gone by itself
            connection.shutdown(socket.SHUT_RD)
