"""The operator's door of every process: `/healthz`, `/readyz` and `/metrics` on a port and threads of its own."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def serve(port: int, problems: Callable[[], list[str]], *, host: str = "0.0.0.0") -> Callable[[], None]:
    """Serves until the returned function is called. `problems` says why the process is not ready."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif self.path == "/healthz":
                self._answer(200, "application/json", b'{"status":"ok"}')
            elif self.path == "/readyz":
                found = problems()
                self._answer(503 if found else 200, "application/json", orjson.dumps({"problems": found}))
            else:
                self._answer(404, "application/json", b'{"status":"not found"}')

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are not worth a line."""

    server = _Server((host, port), Handler)
    Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server.shutdown
