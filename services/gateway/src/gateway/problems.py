"""Every failure as RFC 9457 problem details, with one entry for each bad field."""

import re
from typing import Any

import orjson
from flask import Response, request
from werkzeug.exceptions import HTTPException

from chassis import errors, log, trace
from chassis.errors import Fault, Violation
from gateway.parse import HEADERS, PreconditionRequired

TYPE = "urn:guanxi:problem:"
MOST_ERRORS = 100  # a body of a megabyte can hold more mistakes than anybody reads
_STATUS: dict[type[Fault], int] = {
    errors.Invalid: 400,
    errors.Unauthenticated: 401,
    errors.Denied: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    PreconditionRequired: 428,
    errors.Exhausted: 429,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}
_CONFLICTS = {"VERSION_MISMATCH": 412, "KEY_REUSED": 422}


def status_of(fault: Fault) -> int:
    """The HTTP status of a fault."""
    if isinstance(fault, errors.Conflict) and fault.reason in _CONFLICTS:
        return _CONFLICTS[fault.reason]
    return next((_STATUS[kind] for kind in type(fault).__mro__ if kind in _STATUS), 500)


def of_fault(fault: Fault) -> Response:
    """A fault as a response."""
    detail = fault.message if not fault.violations else "Some fields of the request cannot be accepted."
    response = problem(status_of(fault), reason=fault.reason, detail=detail, violations=fault.violations)
    if fault.retry_after or isinstance(fault, errors.Unavailable):
        response.headers["Retry-After"] = str(max(1, round(fault.retry_after)))
    if isinstance(fault, errors.Unauthenticated):
        response.headers["WWW-Authenticate"] = 'Bearer realm="guanxi"'
    return response


def of_http(error: HTTPException) -> Response:
    """What Flask and its server refuse: unknown paths and methods, bodies too large or of the wrong kind."""
    status = error.code or 500
    response = problem(status, reason=error.name.upper().replace(" ", "_"), detail=error.description or error.name)
    methods = getattr(error, "valid_methods", None)
    if methods:
        response.headers["Allow"] = ", ".join(sorted(methods))
    return response


def of_bug(error: Exception) -> Response:
    """What nobody foresaw: logged here, said to nobody."""
    log.error("request failed", path=str(request.url_rule), error=error)
    return problem(500, reason="INTERNAL", detail="Something went wrong here; the log has it under this trace.")


def problem(status: int, *, reason: str, detail: str, violations: tuple[Violation, ...] = ()) -> Response:
    """An application/problem+json response."""
    body: dict[str, Any] = {
        "type": TYPE + reason.lower().replace("_", "-"),
        "title": reason.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": request.path,
        "trace_id": trace.current_id(),
    }
    if violations:
        body["errors"] = [_entry(one) for one in violations[:MOST_ERRORS]]
    return Response(orjson.dumps(body), status, content_type="application/problem+json")


def _entry(violation: Violation) -> dict[str, str]:
    entry = {"field": violation.field, "reason": violation.reason}
    if violation.field in HEADERS:
        return entry | {"in": "header"}
    if violation.field in request.args:
        return entry | {"in": "query"}
    if violation.field in (name.replace("__", ".") for name in request.view_args or {}):
        return entry | {"in": "path"}
    if request.method in ("GET", "HEAD"):
        return entry
    return entry | {"in": "body", "pointer": pointer(violation.field)}


def pointer(field: str) -> str:
    """A field's path as a JSON pointer in a URI fragment: `phones[0].number` is `#/phones/0/number`."""
    parts = re.findall(r'\["(.*?)"\]|\[(\d+)\]|([^.\[\]]+)', field)
    names = (next(part for part in found if part) for found in parts if any(found))
    return "#" + "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
