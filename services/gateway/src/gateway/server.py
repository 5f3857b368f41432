"""Gunicorn, told in code what to run and what not to log."""

import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from chassis import log
from gateway.settings import GatewaySettings

STALL_SECONDS = 10
GOODBYE_SECONDS = 1.0


class _Log(Logger):  # type: ignore[misc]
    """Gunicorn's log without what clients sent: a request line holds what people search for."""

    def warning(self, msg: str, *_args: Any, **_more: Any) -> None:
        log.warning("http server", what=str(msg).partition(":")[0])

    def exception(self, msg: str, *_args: Any, **_more: Any) -> None:
        log.error("http server failed", error=sys.exc_info()[1])


class _Worker(ThreadWorker):  # type: ignore[misc]
    """Gunicorn's threads, and a limit for clients that stop in the middle of something or never hang up.

    Gunicorn lets the former hold a thread for ever, and waits for the latter in the one thread that accepts.
    """

    def init_process(self) -> None:
        limit = struct.pack("ll", STALL_SECONDS, 0)
        for listener in self.sockets:  # connections inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        super().init_process()

    def handle(self, conn: Any) -> Any:
        kept = super().handle(conn)
        if kept is False:
            _hang_up(conn.sock)
        return kept


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
            "timeout": 60,
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
