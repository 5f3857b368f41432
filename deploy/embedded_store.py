"""The embedded store of one machine: `python embedded_store.py <port> <folder>` speaks MongoDB's protocol."""

import signal
import sys
from threading import Event

from secantus.server import SecantusDBServer

# A process that dies inside a transaction leaves its locks behind until it has been idle for so long; the default of
# 60 would hold up whoever takes over.
TRANSACTION_SECONDS = 10.0


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = SecantusDBServer(
        port=int(sys.argv[1]),
        storage_path=sys.argv[2],
        enable_test_commands=False,
        sync_on_commit=True,
        transaction_lifetime_seconds=TRANSACTION_SECONDS,
    )
    server.start()
    while not stop.wait(1.0):
        # By itself it looks only when another transaction comes along, which may be the one that is waiting.
        server.transactions.prune_expired()
    server.stop()


if __name__ == "__main__":
    main()
