"""An HTTP request as the message of its operation; every mistake in it is found before anything is called."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from flask import Request
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from chassis import codec, contract
from chassis.codec.scalars import Mistake, is_map, text_parser
from chassis.errors import Fault, Invalid, Violation
from gateway import body
from gateway.routes import Route

KEY, MATCH, TIMEOUT = "Idempotency-Key", "If-Match", "Request-Timeout"
HEADERS = (KEY, MATCH, TIMEOUT)
FIELDS = "fields"
_HEADERS = {"request_id": KEY, "version": MATCH}


class PreconditionRequired(Fault):
    """The request must say which version it changes."""

    reason = "PRECONDITION_REQUIRED"


def message_of(route: Route, request: Request, variables: Mapping[str, str]) -> Message:
    """The validated request message; raises `Invalid` with one violation for each bad field."""
    message = route.operation.request()
    found: list[Violation] = []
    if route.body and not route.uploads:
        _read_body(route, request, message, found)
    for name, text in variables.items():
        _assign(message, name.replace("__", "."), [text], found)
    _read_query(route, request, message, found)
    _read_headers(route, request, message, found)
    if found:
        raise Invalid(found)
    _validate(route, message)
    return message


def _validate(route: Route, message: Message) -> None:
    with as_sent(route):
        contract.validate(message)


@contextmanager
def as_sent(route: Route) -> Iterator[None]:
    """Around what knows the message only: its violations get the paths the client knows."""
    try:
        yield
    except Invalid as error:
        raise Invalid(Violation(_as_sent(route, one.field), one.reason) for one in error.violations) from error


def _as_sent(route: Route, path: str) -> str:
    """The path of a field as the client wrote it: inside the body, or the header that carries it."""
    if path in _HEADERS:
        return _HEADERS[path]
    return path.removeprefix(f"{route.body}.") if route.body not in ("", "*") else path


# --- body ------------------------------------------------------------------------------------------------------------


def _read_body(route: Route, request: Request, message: Message, found: list[Violation]) -> None:
    value = body.json_of(request)
    if not isinstance(value, dict):
        found.append(Violation("", "the body must be a JSON object"))
        return
    target: Any = message if route.body == "*" else getattr(message, route.body)
    target.SetInParent()
    _refuse_bound(route, value, found)
    if "update_mask" in route.fields and "update_mask" not in request.args:
        message.update_mask.paths.extend(_named(target, value))  # type: ignore[attr-defined]
    codec.merge_json(target, _without_nulls(target, value), "", found)


def _refuse_bound(route: Route, value: dict[str, Any], found: list[Violation]) -> None:
    """What travels in the path or a header must not come a second time in the body."""
    if route.body != "*":
        return
    for name in set(value) & {*route.variables, *_HEADERS}:
        if name in route.fields:
            found.append(Violation(name, f"belongs into the {_HEADERS.get(name, 'path')}, not the body"))


def _named(target: Message, value: dict[str, Any]) -> list[str]:
    """The update mask a merge patch means (RFC 7396): the fields it names; of a map, the entries."""
    paths: list[str] = []
    for name, item in value.items():
        field: Any = target.DESCRIPTOR.fields_by_name.get(name)
        if field is not None and is_map(field) and isinstance(item, dict):
            paths += [f"{name}.{key}" for key in item]
        elif field is not None:
            paths.append(name)
    return paths


def _without_nulls(target: Message, value: dict[str, Any]) -> dict[str, Any]:
    """The patch without the map entries it takes away."""
    return {name: _kept(target.DESCRIPTOR.fields_by_name.get(name), item) for name, item in value.items()}


def _kept(field: Any, item: Any) -> Any:
    if field is None or not is_map(field) or not isinstance(item, dict):
        return item
    return {key: inner for key, inner in item.items() if inner is not None}


# --- query, path, headers --------------------------------------------------------------------------------------------


def _read_query(route: Route, request: Request, message: Message, found: list[Violation]) -> None:
    bound = {*route.variables, *_HEADERS, route.body}
    for name, texts in request.args.lists():
        if name == FIELDS and route.selects:
            continue
        if route.body == "*" or name in bound or name not in route.fields:
            found.append(_unknown(name))
        else:
            _assign(message, name, texts, found)


def refuse_query(request: Request) -> None:
    """Raises `Invalid` for any query parameter, where an operation takes none."""
    if request.args:
        raise Invalid(_unknown(name) for name in request.args)


def _unknown(name: str) -> Violation:
    return Violation(name[:100], "is not a parameter of this operation")


def _assign(message: Message, path: str, texts: list[str], found: list[Violation]) -> None:
    *parents, name = path.split(".")
    target: Any = contract.read(message, ".".join(parents)) if parents else message
    field = target.DESCRIPTOR.fields_by_name[name]
    if not field.is_repeated and len(texts) > 1:
        found.append(Violation(path, "is given more than once"))
    elif any("\0" in text for text in texts):
        found.append(Violation(path, "holds a NUL character"))
    elif field.message_type is not None:
        codec.merge_json(getattr(target, name), texts[0], path, found)
    else:
        _set(target, field, texts, path, found)


def _set(target: Any, field: FieldDescriptor, texts: list[str], path: str, found: list[Violation]) -> None:
    parse = text_parser(field)
    try:
        if field.is_repeated:
            getattr(target, field.name).extend([parse(text) for text in texts])
        else:
            setattr(target, field.name, parse(texts[0]))
    except Mistake as mistake:
        found.append(Violation(path, str(mistake)))


def _read_headers(route: Route, request: Request, message: Any, found: list[Violation]) -> None:
    if route.keyed:
        key = request.headers.get(KEY, "")
        if not key and route.method == "POST":
            found.append(Violation(KEY, "is required: send a new UUID for every new intention, the same for a retry"))
        message.request_id = key or str(uuid4())
    if route.versioned:
        message.version = _version(request.headers.get(MATCH, ""), found)


def _version(tag: str, found: list[Violation]) -> int:
    if not tag:
        raise PreconditionRequired("send If-Match with the ETag of the version you have read")
    exact = re.fullmatch(r'"([1-9][0-9]{0,8})"', tag.strip())
    if exact is None:
        found.append(Violation(MATCH, 'must be one ETag of this resource, such as "3"'))
        return 1
    return int(exact[1])
