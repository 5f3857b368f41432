"""The embedded store of one machine: `python embedded_store.py <port> <folder>` speaks MongoDB's protocol."""

import signal
import sys
from threading import Event

from secantus.server import SecantusDBServer

# A process that dies inside a transaction leaves its locks behind for so long, as with MongoDB's
# transactionLifetimeLimitSeconds; the default of 60 would hold up whoever takes over. No transaction of ours is longer.
TRANSACTION_SECONDS = 20.0


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
    stop.wait()
    server.stop()


if __name__ == "__main__":
    main()
