"""Start the platform's processes on one machine: the store, the broker and any number of services.

`make up`, `make demo` and `make test` all start their processes here, so that each has its data and log in the
caller's directory, and is gone when its starter is gone, however that ended.
"""

from onebox.processes import HOST, Process, await_ready, free_port, is_free, stop_all
from onebox.servers import (
    REPOSITORY,
    Server,
    broker_control,
    infrastructure,
    start_broker,
    start_service,
    start_store,
)

__all__ = [
    "HOST",
    "REPOSITORY",
    "Process",
    "Server",
    "await_ready",
    "broker_control",
    "free_port",
    "infrastructure",
    "is_free",
    "start_broker",
    "start_service",
    "start_store",
    "stop_all",
]
