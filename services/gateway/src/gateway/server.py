"""Gunicorn, told in code what to run and what not to log."""

import sys
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from chassis import log
from gateway.pace import HEAD_SECONDS
from gateway.settings import GatewaySettings
from gateway.worker import Worker


class _Log(Logger):  # type: ignore[misc]
    """Gunicorn's log without what clients sent: a request line holds what people search for."""

    def warning(self, msg: str, *_args: Any, **_more: Any) -> None:
        log.warning("http server", what=str(msg).partition(":")[0])

    def exception(self, msg: str, *_args: Any, **_more: Any) -> None:
        log.error("http server failed", error=sys.exc_info()[1])


class _Server(BaseApplication):  # type: ignore[misc]
    """What runs the gateway's threads in one worker process."""

    def __init__(self, settings: GatewaySettings, make: Callable[[], Flask]) -> None:
        self._settings, self._make = settings, make
        super().__init__()

    def load_config(self) -> None:
        chosen = {
            "bind": f"0.0.0.0:{self._settings.port}",
            "worker_class": Worker,
            "threads": self._settings.threads,
            "timeout": 300,  # longer than a machine that is paused and goes on
            "graceful_timeout": 25,
            "keepalive": round(HEAD_SECONDS),
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
