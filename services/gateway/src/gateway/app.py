"""The Flask application: every route of the policy, and the one path a request takes through all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from time import monotonic, perf_counter
from typing import Any

from flask import Flask, Response, g, request
from google.protobuf.message import Message
from gunicorn.http.errors import ParseException
from pymongo.errors import PyMongoError
from werkzeug.exceptions import BadRequest, HTTPException

from chassis import contract, identity, log, metrics, trace
from chassis.errors import DeadlineExceeded, Fault, invalid
from chassis.events import clock
from chassis.identity import Caller
from chassis.store import unavailable
from gateway import answer, body, docs, openapi, pace, parse, problems, streams
from gateway.callers import Callers
from gateway.policy import Policy, Quota
from gateway.quota import Quotas
from gateway.routes import Route, Segment, routes
from gateway.upstreams import Upstreams

DEFAULT_SECONDS, MOST_SECONDS = 5.0, 10.0
MARGIN_SECONDS = 0.05
TOKEN_SECONDS = 20.0
SET_SECONDS = 1.0  # a clock that is off by more than it was has been set
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}


@dataclass(frozen=True)
class Door:
    """What a gateway is made of."""

    policy: Policy
    callers: Callers
    quotas: Quotas
    upstreams: Upstreams
    signer: identity.Signer
    _tokens: dict[Caller, tuple[float, float, str]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def token(self, caller: Caller) -> str:
        """The caller's token for the services, made anew when the last one is some seconds old, or when the clock was
        set meanwhile."""
        now = clock()
        drift = now.timestamp() - monotonic()
        with self._lock:
            until, by, token = self._tokens.get(caller, (0.0, 0.0, ""))
            if until < monotonic() or abs(drift - by) > SET_SECONDS:
                if len(self._tokens) > 10_000:
                    self._tokens.clear()
                token = self.signer.mint(caller, now)
                self._tokens[caller] = (monotonic() + TOKEN_SECONDS, drift, token)
        return token


def create_app(door: Door) -> Flask:
    """The application of one gateway."""
    app = Flask("gateway", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.url_map.converters["default"] = Segment
    served = routes(door.policy.operations)
    reads = answer.reading_routes(served)
    for route in served:
        view = partial(_view, door, reads, route)
        app.add_url_rule(route.rule, route.operation.name, view, methods=[route.method])
    document = openapi.document(door.policy.name, served, door.policy.authentication)
    app.add_url_rule("/openapi.json", "openapi", partial(docs.machine, document))
    app.add_url_rule("/docs", "docs", partial(docs.page, document))
    app.before_request(_begin)
    app.after_request(_finish)
    app.teardown_request(_end)
    _handle_errors(app)
    return app


def _handle_errors(app: Flask) -> None:
    app.register_error_handler(Fault, problems.of_fault)
    app.register_error_handler(HTTPException, problems.of_http)
    app.register_error_handler(PyMongoError, lambda error: problems.of_fault(unavailable(error)))
    app.register_error_handler(ParseException, lambda _error: problems.of_http(BadRequest("the body is broken off")))
    app.register_error_handler(Exception, problems.of_bug)


def _begin() -> None:
    g.started = perf_counter()
    parent = request.headers.get("traceparent", "")
    g.span = trace.span(_what(), parent=parent, kind=trace.SERVER)
    g.span.__enter__()


def _what() -> str:
    """The operation in words of ours only: what a client invents must not become a label, a span or a log line."""
    method = request.method if request.method in _METHODS else "OTHER"
    return f"{method} {request.url_rule or 'unknown'}"


def _finish(response: Response) -> Response:
    pace.PACE.allow(pace.of(request.environ), pace.PIECE_SECONDS)
    seconds = perf_counter() - g.started
    metrics.HTTP_SECONDS.labels(_what(), str(response.status_code)).observe(seconds)
    response.headers.update(_SAFETY)
    if standing := g.get("standing"):
        response.headers.update(standing.headers())
    response.headers["Trace-Id"] = trace.current_id()
    log.info(
        "request", route=_what(), status=response.status_code,
        milliseconds=round(seconds * 1000, 1), client=g.get("client", ""),
    )  # fmt: skip
    return response


def _end(_error: BaseException | None) -> None:
    if span := g.pop("span", None):
        span.__exit__(None, None, None)


def _view(door: Door, reads: Mapping[str, Route], route: Route, **variables: str) -> Response:
    pace.PACE.rest(pace.of(request.environ))
    caller = _admitted(door, route)
    token, seconds = door.token(caller), _seconds()
    if route.uploads:
        return _upload(door, route, variables, token)
    message = parse.message_of(route, request, variables)
    if route.downloads:
        return _download(door, route, message, token)
    tree = answer.selection(route.shown, request.args.getlist(parse.FIELDS))
    with parse.as_sent(route):
        found = door.upstreams.call(route.operation, message, token=token, seconds=seconds())
    return answer.response(route, request, found, tree, answer.location(route, reads, found))


def _download(door: Door, route: Route, message: Message, token: str) -> Response:
    with parse.as_sent(route):
        found = door.upstreams.receive(route.operation, message, token=token, seconds=streams.STREAM_SECONDS)
        return streams.download(found, pace.of(request.environ))


def _upload(door: Door, route: Route, variables: Mapping[str, str], token: str) -> Response:
    body.refuse_encoding(request)
    parse.refuse_query(request)
    contract.validate(route.operation.request(**variables))
    upload = streams.Upload(route, request, variables)
    try:
        with parse.as_sent(route):
            found = door.upstreams.send(route.operation, iter(upload), token=token, seconds=streams.STREAM_SECONDS)
    except Fault as fault:
        raise upload.failure or fault from None
    finally:
        upload.close()
    return answer.response(route, request, found, {}, "")


def _admitted(door: Door, route: Route) -> Caller:
    """Who calls, within their quota and with the right to; in this order."""
    caller, own = door.callers.of(request)
    g.client = caller.subject
    g.standing = door.quotas.spend(caller.subject, Quota(**own) if own else door.policy.quota)
    g.standing.require()
    caller.require(route.operation.scope)
    return caller


def _seconds() -> Any:
    """How much of the client's time is left for the next hop, asked when it is needed."""
    text = request.headers.get(parse.TIMEOUT, "")
    try:
        wanted = float(text) if text else DEFAULT_SECONDS
    except ValueError:
        raise invalid(parse.TIMEOUT, "must be a number of seconds") from None
    if not 0 < wanted <= MOST_SECONDS:
        raise invalid(parse.TIMEOUT, f"must be more than 0 and at most {MOST_SECONDS:g} seconds")
    ends = g.started + wanted - MARGIN_SECONDS

    def left() -> float:
        remaining: float = ends - perf_counter()
        if remaining <= 0:
            raise DeadlineExceeded("the time for this request ran out; nothing was changed")
        return remaining

    return left
