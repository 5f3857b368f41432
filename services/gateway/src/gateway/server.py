"""Gunicorn, told in code what to run and what not to log."""

import errno
import selectors
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event, Timer
from time import monotonic
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker

from chassis import log, metrics
from gateway.pace import HEAD_SECONDS, PACE
from gateway.settings import GatewaySettings

STALL_SECONDS = 10
GOODBYE_SECONDS = 0.3
SHED_SECONDS = 1.0
LEAVING_SECONDS = 2.0
STOPPING = Event()
_PROBLEM = b'{"type":"urn:guanxi:problem:overload","title":"Service Unavailable","status":503,'
_PROBLEM += b'"detail":"more is asked of this gateway than it can answer; come back in a moment"}'
_OVERLOADED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
_OVERLOADED += b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_PROBLEM), _PROBLEM)


class _Log(Logger):  # type: ignore[misc]
    """Gunicorn's log without what clients sent: a request line holds what people search for."""

    def warning(self, msg: str, *_args: Any, **_more: Any) -> None:
        log.warning("http server", what=str(msg).partition(":")[0])

    def exception(self, msg: str, *_args: Any, **_more: Any) -> None:
        log.error("http server failed", error=sys.exc_info()[1])


class _Worker(ThreadWorker):  # type: ignore[misc]
    """Gunicorn's threads, with what it lacks: a thread is given to a connection only when a request has begun to
    arrive, and only for as long as the client keeps up; requests that waited too long for a thread are refused at once,
    so that those behind them are not late as well; and a stopping process says so before it closes its door.
    """

    def init_process(self) -> None:
        limit = struct.pack("ll", STALL_SECONDS, 0)
        for listener in self.sockets:  # connections inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        PACE.watch()
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Waits for the first byte among all the others that have none, not in a thread."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED):
                return
            raise
        self.nr_conns += 1
        conn = TConn(self.cfg, client, address, listener.getsockname())
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def enqueue_req(self, conn: Any) -> None:
        """Notes since when a request waits for a thread."""
        conn.queued = monotonic()
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """A request on a connection, in a thread."""
        if monotonic() - conn.queued > SHED_SECONDS:
            return _shed(conn.sock)
        PACE.allow(conn.sock, HEAD_SECONDS)
        try:
            kept = super().handle(conn)
        finally:
            PACE.rest(conn.sock)
        if kept is False:
            _hang_up(conn.sock)
        return kept

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Says that it is stopping; closes the door when whoever sends requests has had time to learn it."""
        STOPPING.set()
        Timer(LEAVING_SECONDS, super().handle_exit, args=(sig, frame)).start()


def _shed(connection: socket.socket) -> bool:
    metrics.HTTP_REFUSED.labels("overload").inc()
    with suppress(OSError):  # the client may be gone at any point
        connection.setblocking(True)
        connection.sendall(_OVERLOADED)
    _hang_up(connection)
    return False


def _hang_up(connection: socket.socket) -> None:
    """Says goodbye, hears out what the client is still sending for a moment, and leaves nothing to wait for."""
    ends = monotonic() + GOODBYE_SECONDS
    with suppress(OSError):  # the client may be gone at any point
        connection.shutdown(socket.SHUT_WR)
        while (left := ends - monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(65536):
                break
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Server(BaseApplication):  # type: ignore[misc]
    """What runs the gateway's threads in one worker process."""

    def __init__(self, settings: GatewaySettings, make: Callable[[], Flask]) -> None:
        self._settings, self._make = settings, make
        super().__init__()

    def load_config(self) -> None:
        chosen = {
            "bind": f"0.0.0.0:{self._settings.port}",
            "worker_class": _Worker,
            "threads": self._settings.threads,
            "timeout": 300,  # longer than a machine that is paused and goes on
            "graceful_timeout": 25,
            "keepalive": 15,
            "limit_request_line": 8190,
            "control_socket_disable": True,
            "loglevel": "warning",
            "logger_class": _Log,
            "worker_tmp_dir": "/dev/shm",
            "proc_name": f"gateway-{self._settings.policy}",
        }
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Runs in the worker, after the fork: connections and channels are made here."""
        return self._make()


def run(settings: GatewaySettings, make: Callable[[], Flask]) -> None:
    """Serves until told to stop; `make` is called in the process that serves."""
    _Server(settings, make).run()
