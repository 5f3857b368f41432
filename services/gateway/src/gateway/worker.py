"""Gunicorn's threads, given only to requests that are there, and its goodbyes, which take none."""

import errno
import json
import resource
import selectors
import socket
import struct
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from threading import Event, Timer
from time import monotonic
from typing import Any

from gunicorn.http import errors
from gunicorn.workers.gthread import TConn, ThreadWorker

from chassis import metrics
from gateway import intake
from gateway.pace import HEAD_SECONDS, PACE

STALL_SECONDS = 10
REST_SECONDS = 0.1  # for what is left of a body that was refused
GOODBYE_SECONDS = 1.0
MOST_GOODBYE = 16 * 1024 * 1024
SHED_SECONDS = 1.0
LEAVING_SECONDS = 2.0
STOPPING = Event()
_REFUSED = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    errors.ConfigurationProblem: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidResponseHeader: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidResponseHeaderName: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ParseException: HTTPStatus.BAD_REQUEST,
}


def _problem(status: HTTPStatus, kind: str, detail: str, *headers: str) -> bytes:
    """A whole answer for those whom the application never hears of."""
    told = {"type": f"urn:guanxi:problem:{kind}", "title": status.phrase, "status": status, "detail": detail}
    body = json.dumps(told)
    head = (f"HTTP/1.1 {status} {status.phrase}", "Content-Type: application/problem+json", *headers)
    return "\r\n".join((*head, "Connection: close", f"Content-Length: {len(body)}", "", body)).encode()


_OVERLOADED = _problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "overload",
    "more is asked of this gateway than it can answer; come back in a moment",
    "Retry-After: 1",
)
_ENDLESS = _problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", "the head of the request is too long")


class Worker(ThreadWorker):  # type: ignore[misc]
    """Gunicorn's threads, with what it lacks: a thread is given to a connection only when a request is there, and only
    for as long as the client keeps up; requests that waited too long for a thread are refused at once, so that those
    behind them are not late as well; and a stopping process says so before it closes its door.
    """

    def init_process(self) -> None:
        """Sets limits for the process and for every connection."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # connections must not take those of the store
        limit = struct.pack("ll", STALL_SECONDS, 0)
        for listener in self.sockets:  # connections inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        PACE.watch()
        self.leaving: deque[Any] = deque()
        self.queued: deque[tuple[float, Future[Any]]] = deque()
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Waits for a request among all the others that have none, not in a thread."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        conn = TConn(self.cfg, client, address, listener.getsockname())
        conn.taken = bytearray()
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))
        if self.nr_conns >= self.worker_connections:
            self._make_room()

    def _make_room(self) -> None:
        """Lets go of the connection that has said nothing for longest, but not of the only one that is new."""
        if len(self.pending_conns) > 1:
            self.pending_conns[0].timeout = 0.0
        elif self.keepalived_conns:
            self.keepalived_conns[0].timeout = 0.0

    def on_pending_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Something came on a connection that is new."""
        if self._take(conn, self.pending_conns):
            super().on_pending_socket_readable(conn, client)

    def on_client_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Something came on a connection that was answered before."""
        if self._take(conn, self.keepalived_conns):
            super().on_client_socket_readable(conn, client)

    def _take(self, conn: Any, waiting: Any) -> bool:
        if not conn.taken and self.alive:  # from its first byte on, a request has its time to be whole
            conn.set_timeout()
            waiting.remove(conn)
            waiting.append(conn)
        ready = intake.take(conn.sock, conn.taken)
        if ready and not conn.taken:  # it is gone without a word
            waiting.remove(conn)
            self._part(conn)
            return False
        return ready

    def enqueue_req(self, conn: Any) -> None:
        """Lets a request wait for a thread, but not for long; the beginning of one waits for its rest."""
        if conn.parser is not None and not conn.taken:
            conn.taken += conn.parser.unreader.take_buffered()  # sent right behind the request before
            if conn.taken and not intake.is_whole(conn.taken):
                return self._await_rest(conn)
        future = self.tpool.submit(self.handle, conn)
        self.queued.append((monotonic() + SHED_SECONDS, future))
        future.add_done_callback(lambda found: self.method_queue.defer(self.finish_request, conn, found))

    def _await_rest(self, conn: Any) -> None:
        conn.sock.setblocking(False)
        conn.timeout = monotonic() + (HEAD_SECONDS if self.alive else LEAVING_SECONDS)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def handle(self, conn: Any) -> Any:
        """A request on a connection, in a thread."""
        if intake.is_endless(conn.taken):
            return _tell(conn.sock, _ENDLESS)
        conn.init()
        conn.parser.unreader.unread(bytes(conn.taken))
        conn.taken.clear()
        PACE.allow(conn.sock, HEAD_SECONDS)
        try:
            return super().handle(conn)
        finally:
            PACE.rest(conn.sock)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """What becomes of a connection after its answer; one that ends is heard out for a moment, not in a thread."""
        if fs.cancelled():
            metrics.HTTP_REFUSED.labels("overload").inc()
            _tell(conn.sock, _OVERLOADED)
        elif fs.exception() or fs.result():
            super().finish_request(conn, fs)
            return
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:  # it is gone already
            return self._close(conn)
        conn.timeout, conn.left = monotonic() + GOODBYE_SECONDS, MOST_GOODBYE
        self.leaving.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._hear_out, conn))

    def _hear_out(self, conn: Any, client: socket.socket) -> None:
        """Closing while a client still sends would take the answer from it."""
        try:
            heard = len(client.recv(65536))
        except BlockingIOError:
            return
        except OSError:
            heard = 0
        conn.left -= heard
        if not heard or conn.left < 0:
            self.leaving.remove(conn)
            self._part(conn)

    def _part(self, conn: Any) -> None:
        self.poller.unregister(conn.sock)
        self._close(conn)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Ends all that has been waited for long enough."""
        super().murder_pending()
        while self.leaving and self.leaving[0].timeout < monotonic():
            self._part(self.leaving.popleft())
        while self.queued and self.queued[0][0] < monotonic():
            self.queued.popleft()[1].cancel()  # which does nothing to one that has got its thread

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether a connection can be used again; nobody waits for the rest of a body that was refused."""
        return keepalive and bool(conn.parser.finish_body(deadline=monotonic() + REST_SECONDS))

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answers what is no HTTP as everything else that is refused."""
        status = next((_REFUSED[one] for one in type(exc).__mro__ if one in _REFUSED), None)
        if status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.exception("Error handling request")
        else:
            self.log.warning("Invalid request")
        status = status or HTTPStatus.INTERNAL_SERVER_ERROR
        kind = status.phrase.lower().replace(" ", "-")
        _tell(client, _problem(status, kind, "this is no request that can be answered"))

    def _cap_keepalive(self, deadline: float) -> None:
        """A stopping process waits for new connections no longer than for old ones."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Says that it is stopping; closes the door when whoever sends requests has had time to learn it."""
        STOPPING.set()
        Timer(LEAVING_SECONDS, super().handle_exit, args=(sig, frame)).start()


def _tell(connection: socket.socket, answer: bytes) -> bool:
    """Sends an answer that ends the connection, as far as the client takes it at once."""
    with suppress(OSError):  # it may be gone at any point
        connection.setblocking(False)
        connection.send(answer)
    return False
