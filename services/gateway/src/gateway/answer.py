"""A service's answer as an HTTP response: the body the contract names, the fields asked for, ETag and compression."""

import gzip
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from flask import Request, Response
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from chassis import codec, contract
from chassis.codec.scalars import is_map
from chassis.errors import Invalid, Violation
from gateway.routes import Route

COMPRESSED_FROM = 1024
Tree = dict[str, "Tree"]  # what to show: {} is all of it


def selection(descriptor: Descriptor, texts: Iterable[str]) -> Tree:
    """The fields that `fields` parameters ask for; raises `Invalid` for one the response does not have."""
    tree: Tree = {}
    paths = [path.strip() for text in texts for path in text.split(",") if path.strip()]
    unknown = [path for path in paths if not _known(descriptor, path.split("."))]
    if unknown:
        raise Invalid([Violation("fields", f"the response has no {', '.join(unknown)[:200]}")])
    for path in paths:
        _add(tree, path.split("."))
    return tree


def _known(descriptor: Descriptor, names: list[str]) -> bool:
    field = descriptor.fields_by_name.get(names[0])
    if field is None:
        return False
    if len(names) == 1:
        return True
    return is_map(field) or (field.message_type is not None and _known(field.message_type, names[1:]))


def _add(tree: Tree, names: list[str]) -> None:
    for name in names[:-1]:
        if tree.get(name) == {}:
            return  # all of it is asked for already
        tree = tree.setdefault(name, {})
    tree[names[-1]] = {}


def pruned(value: Any, tree: Tree) -> Any:
    """The value with only what the tree names; lists are pruned item by item."""
    if not tree or not isinstance(value, dict | list):
        return value
    if isinstance(value, list):
        return [pruned(item, tree) for item in value]
    return {name: pruned(value[name], inner) for name, inner in tree.items() if name in value}


def response(route: Route, request: Request, answer: Message, tree: Tree, location: str) -> Response:
    """The whole response; 304 when the client has this version already."""
    shown: Any = getattr(answer, route.answer) if route.answer else answer
    tag = str(shown.version) if "version" in shown.DESCRIPTOR.fields_by_name else ""
    headers = {"ETag": f'"{tag}"'} if tag else {}
    if tag and request.method in ("GET", "HEAD") and request.if_none_match.contains_weak(tag):
        return Response(status=304, headers=headers)
    if location:
        headers["Location"] = location
    body = orjson.dumps(pruned(codec.to_json(shown), tree))
    made = Response(body, 201 if route.creates else 200, headers, content_type="application/json")
    return compressed(made, request)


def location(route: Route, reads: Mapping[str, Route], answer: Message) -> str:
    """Where something new is read: the path of the operation that gets one by its id; empty where there is none."""
    if not route.creates:
        return ""
    shown = getattr(answer, route.answer) if route.answer else answer
    reading = reads.get(shown.DESCRIPTOR.full_name)
    if reading is None:
        return ""
    (name,) = reading.variables
    return reading.path.replace(f"{{{name}}}", str(contract.read(shown, name)))


def reading_routes(routes: Iterable[Route]) -> dict[str, Route]:
    """The route that reads one thing by its own id, by the type of the thing."""
    gets = (one for one in routes if one.method == "GET" and len(one.variables) == 1 and one.path.endswith("}"))
    return {one.shown.full_name: one for one in gets if one.variables[0] in one.shown.fields_by_name}


def compressed(made: Response, request: Request) -> Response:
    """The response, gzipped when it is worth it and the client takes it."""
    made.headers["Vary"] = "Accept-Encoding"
    body = made.get_data()
    if len(body) >= COMPRESSED_FROM and request.accept_encodings["gzip"] > 0:
        made.set_data(gzip.compress(body, compresslevel=1))
        made.headers["Content-Encoding"] = "gzip"
    return made
