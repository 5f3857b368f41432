"""gRPC both ways, from descriptors."""

from chassis.rpc.client import Stub, channel
from chassis.rpc.server import (
    NOT_SERVING_SECONDS,
    THREADS,
    Call,
    Endpoint,
    Server,
    command,
    query,
    serve_health,
    stop,
)

__all__ = [
    "NOT_SERVING_SECONDS",
    "THREADS",
    "Call",
    "Endpoint",
    "Server",
    "Stub",
    "channel",
    "command",
    "query",
    "serve_health",
    "stop",
]
