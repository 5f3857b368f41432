"""The OpenAPI 3.1 document of a gateway: its routes, their messages, and how they fail."""

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from gateway import parse, schemas
from gateway.routes import HTTP_BODY, Route, last
from gateway.schemas import Schema

VERSION = "1.0"
_HEADERS = frozenset({"request_id", "version"})
_PROBLEM = "Problem"
_FAILURES = {
    "400": "The request has mistakes; `errors` names each field.",
    "401": "The key or token is missing or not valid.",
    "403": "The caller may not do this.",
    "404": "There is no such thing.",
    "409": "The request contradicts the present state, or one with the same key is still running.",
    "412": "Somebody changed it since the version in If-Match.",
    "413": "The body is larger than this operation takes.",
    "414": "The address is longer than 8,190 bytes.",
    "415": "The body is of another kind than this operation takes.",
    "422": "The Idempotency-Key was used for a different request.",
    "428": "If-Match is missing.",
    "429": "The quota is used up; Retry-After says for how long.",
    "431": "The headers are longer than what is read of them.",
    "500": "A failure of ours; the trace id finds it in the log.",
    "503": "A part does not answer or is busy; Retry-After says when to try again.",
    "504": "The time for this request ran out.",
}
_KEY = {
    "name": parse.KEY,
    "in": "header",
    "description": "A new UUID for every new intention, the same for a retry; kept for 72 hours.",
    "schema": {"type": "string", "minLength": 8, "maxLength": 100},
}
_MATCH = {
    "name": parse.MATCH,
    "in": "header",
    "required": True,
    "description": "The ETag of the version you have read.",
    "schema": {"type": "string", "pattern": '^"[1-9][0-9]{0,8}"$'},
}
_TIMEOUT = {
    "name": "Request-Timeout",
    "in": "header",
    "description": "Seconds you wait for the answer; at most 10.",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 10},
}
_FIELDS = {
    "name": "fields",
    "in": "query",
    "description": "Only these fields of the answer, as dotted paths with commas between.",
    "schema": {"type": "string"},
}
_SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
}


def document(policy: str, routes: Iterable[Route], authentication: Iterable[str]) -> Schema:
    """The whole document."""
    served = list(routes)
    paths: dict[str, Schema] = {}
    for route in served:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, served)
    kinds = set(authentication)
    ways = [name for name, of in (("key", {"channel", "partner"}), ("token", {"staff"})) if of & kinds]
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Guanxi, {policy} gateway", "version": VERSION, "description": _introduction()},
        "paths": paths,
        "security": [{way: []} for way in ways],
        "components": {
            "securitySchemes": {way: _SECURITY[way] for way in ways},
            "schemas": dict(sorted(_schemas(served).items())) | {_PROBLEM: _problem()},
        },
    }


def _introduction() -> str:
    return (
        "Every write takes an Idempotency-Key, so it can be repeated safely. What has a version comes with an ETag and "
        "is changed with If-Match. Lists come in pages: pass next_page_token back as page_token. A field or parameter "
        "that an operation does not know is refused; answers may have new fields at any time. Failures are "
        "application/problem+json (RFC 9457)."
    )


def _operation(route: Route, served: Iterable[Route]) -> Schema:
    method = route.operation.method
    text = schemas.comments().get(method.full_name, "")
    found: Schema = {
        "operationId": method.name,
        "tags": [method.containing_service.name.removesuffix("Service")],
        "summary": text.partition(". ")[0].rstrip("."),
        "description": text,
        "x-scope": route.operation.scope,
        "parameters": [*_parameters(route)],
        "responses": _responses(route, served),
    }
    return found | ({"requestBody": _body(route)} if route.body else {})


# --- what goes in ----------------------------------------------------------------------------------------------------


def _parameters(route: Route) -> Iterator[Schema]:
    request: Any = route.operation.request.DESCRIPTOR
    for path in route.variables:
        one = _field(request, path)
        yield {"name": last(path), "in": "path", "required": True, "schema": schemas.field(one)}
    if route.body != "*":
        for name, one in route.fields.items():
            if name not in {*route.variables, *_HEADERS, route.body}:
                yield _query(name, one)
    if route.selects:
        yield _FIELDS
    if route.keyed:
        yield _KEY | {"required": route.method == "POST"}
    if route.versioned:
        yield _MATCH
    yield _TIMEOUT


def _query(name: str, one: FieldDescriptor) -> Schema:
    schema = schemas.field(one)
    needed = {"required": True} if "minLength" in schema else {}
    return {"name": name, "in": "query", "schema": schema} | needed


def _field(descriptor: Any, path: str) -> FieldDescriptor:
    *parents, name = path.split(".")
    for parent in parents:
        descriptor = descriptor.fields_by_name[parent].message_type
    found: FieldDescriptor = descriptor.fields_by_name[name]
    return found


def _body(route: Route) -> Schema:
    if route.uploads:
        return {"required": True, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    request: Any = route.operation.request.DESCRIPTOR
    if route.body == "*":
        schema = schemas.message(request, without=frozenset({*route.variables, *_HEADERS}))
    elif route.method == "PATCH":
        inner = request.fields_by_name[route.body].message_type
        schema = schemas.message(inner, without=frozenset({*_HEADERS}), partial=True)
    else:
        inner = request.fields_by_name[route.body].message_type
        schema = schemas.reference(inner)
    return {"required": True, "content": {"application/json": {"schema": schema}}}


# --- what comes out --------------------------------------------------------------------------------------------------


def _responses(route: Route, served: Iterable[Route]) -> Schema:
    if route.downloads:
        content: Schema = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    else:
        content = {"application/json": {"schema": schemas.reference(route.shown)}}
    status = "201" if route.creates else "200"
    done: Schema = {"description": "Done.", "content": content}
    if not route.downloads and "version" in route.shown.fields_by_name:
        done["headers"] = {"ETag": {"description": "The version.", "schema": {"type": "string"}}}
    if links := _links(route, served):
        done["links"] = links
    failures = {code: _failure(text) for code, text in _FAILURES.items()}
    return {status: done} | failures


def _links(route: Route, served: Iterable[Route]) -> Schema:
    """What can be done with something new: the operations whose path its answer fills, by their names."""
    if not route.creates:
        return {}
    # Another service hears of it by an event only, and may not know it yet.
    known = [one for one in served if one.operation.upstream == route.operation.upstream]
    return {one.operation.method.name: _link(one) for one in known if one.variables and _fills(route, one)}


def _fills(route: Route, other: Route) -> bool:
    """Whether the answer holds every variable of the other's path, and the version where the other changes one."""
    if other.versioned and other.shown != route.shown:
        return False
    return all(
        name in route.shown.fields_by_name and (not parent or other.fields[parent].message_type == route.shown)
        for parent, _, name in (path.rpartition(".") for path in other.variables)
    )


def _link(other: Route) -> Schema:
    inside = {f"path.{last(path)}": f"$response.body#/{last(path)}" for path in other.variables}
    version = {f"header.{parse.MATCH}": "$response.header.ETag"} if other.versioned else {}
    return {"operationId": other.operation.method.name, "parameters": inside | version}


def _failure(text: str) -> Schema:
    schema = {"$ref": schemas.PREFIX + _PROBLEM}
    return {"description": text, "content": {"application/problem+json": {"schema": schema}}}


def _problem() -> Schema:
    entry = {
        "type": "object",
        "required": ["field", "reason"],
        "properties": {name: {"type": "string"} for name in ("field", "reason", "in", "pointer")},
    }
    texts = {name: {"type": "string"} for name in ("type", "title", "detail", "instance", "trace_id")}
    return {
        "type": "object",
        "description": "What went wrong (RFC 9457), with one entry of `errors` for each bad field.",
        # What is refused before it is read has no address and no trace.
        "required": ["type", "title", "status", "detail"],
        "properties": texts | {"status": {"type": "integer"}, "errors": {"type": "array", "items": entry}},
    }


def _schemas(routes: Iterable[Route]) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for route in routes:
        request: Any = route.operation.request.DESCRIPTOR
        _collect(route.shown, found)
        for one in request.fields:
            _collect(one.message_type, found)
    return found


def _collect(descriptor: Any, found: dict[str, Schema]) -> None:
    if descriptor is None or descriptor.full_name == HTTP_BODY or "$ref" not in schemas.reference(descriptor):
        return
    if descriptor.GetOptions().map_entry:
        return _collect(descriptor.fields_by_name["value"].message_type, found)
    if schemas.name_of(descriptor) not in found:
        found[schemas.name_of(descriptor)] = schemas.message(descriptor)
        for one in descriptor.fields:
            _collect(one.message_type, found)
