"""The API for people: `/docs` shows the OpenAPI document as one page that needs no network and no script."""

from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

import orjson
from flask import Response, request
from jinja2 import Environment, StrictUndefined

from gateway import answer
from gateway.schemas import PREFIX, Schema

_DEEPEST = 3


def machine(document: Schema) -> Response:
    """The document itself."""
    return answer.compressed(Response(orjson.dumps(document), content_type="application/json"), request)


def page(document: Schema) -> Response:
    """The document as a page."""
    text = _template().render(document=document, groups=_groups(document), example=_example)
    return answer.compressed(Response(text, content_type="text/html; charset=utf-8"), request)


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((files("gateway") / "docs.html").read_text("utf-8"))


def _groups(document: Schema) -> list[tuple[str, list[Schema]]]:
    found = [
        one | {"path": path, "method": method.upper()}
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    ]
    return [(tag, list(ones)) for tag, ones in groupby(found, key=lambda one: one["tags"][0])]


def _example(document: Schema, schema: Schema) -> str:
    """A body that shows what a schema takes."""
    value = _value(document, schema, 0)
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _value(document: Schema, schema: Schema, depth: int) -> Any:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].removeprefix(PREFIX)]
    if schema.get("examples"):
        return schema["examples"][0]
    kind = schema.get("type")
    if kind == "object":
        shown = schema.get("properties", {}) if depth < _DEEPEST else {}
        return {name: _value(document, inner, depth + 1) for name, inner in shown.items()}
    if kind == "array":
        return [_value(document, schema["items"], depth + 1)] if depth < _DEEPEST else []
    return _scalar(schema)


def _scalar(schema: Schema) -> Any:
    if schema.get("enum"):
        return schema["enum"][-1]
    return {"integer": 1, "number": 1.5, "boolean": True, "string": "…"}.get(str(schema.get("type")), "…")
