"""What the gateways mean and no JSON Schema can say, told to schemathesis, which loads this file by its path."""

import json
import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import schemathesis

Schema = dict[str, Any]
_PREFIX, _ASKED = "#/components/schemas/", "asked."
_PATIENCE_SECONDS = 5.0
_EMPTY = {"enum": [""]}
_WORD = {"type": "string", "pattern": "^[0-9a-z]{3,12}$"}
_WORDS = {"type": "array", "items": _WORD, "maxItems": 9, "uniqueItems": True}
# What a field takes beyond its schema, by message and name, in the pass in which every request must be taken.
_MEANT: dict[str, Schema] = {
    "customer.v1.Customer": {
        "attributes": {"enum": [{}]},
        "birthday": {"enum": ["1990-02-28"]},
        "time_zone": {"enum": ["Asia/Shanghai"]},
        "interests": _WORDS,
        "service_numbers": _WORDS,
    },
    "customer.v1.IdentityDocument": {"number": {"type": "string", "pattern": "^[A-Z][0-9]{7}$"}},
    "customer.v1.Phone": {"number": {"type": "string", "pattern": "^1[38][0-9]{9}$"}},
    "customer.v1.Email": {"address": {"type": "string", "pattern": "^[a-z]{3,20}@example[.]com$"}},
    "customer.v1.Contact": {"contact_time": {"enum": ["2026-05-01T09:30:00Z"]}},
    "customer.v1.Attribute": {
        "key": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,39}$"},
        "type": {"enum": ["TEXT", "BOOLEAN", "DATE"]},
        "pattern": _EMPTY,
        "options": {"enum": [[]]},
    },
}
_UNUSED = {"customer.v1.Attribute": {"minimum", "maximum"}}
_KEPT = {"$ref", "type", "items", "additionalProperties", "enum"}
# What a patch must not name, or names in a way of its own.
_FIXED = {"customer.v1.Customer": {"kind", "attributes"}, "customer.v1.Attribute": {"key", "type"}}


def meant() -> bool:
    """Whether this is the pass in which every request must be taken."""
    return os.environ.get("FUZZ_PASS") == "meant"


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, raw_schema: Schema) -> None:
    """Gives requests schemas of their own; answers keep theirs, closed, so that each of their fields is declared."""
    schemas = raw_schema["components"]["schemas"]
    asked = {_ASKED + name: _apart(one) for name, one in schemas.items()}
    operations = [one for methods in raw_schema["paths"].values() for one in methods.values()]
    bodies = [content for one in operations for content in _contents(one).values()]
    for content in bodies:
        content["schema"] = _apart(content["schema"])
    if meant():
        _narrow(asked, operations, schemas)
    else:
        for one in _objects([asked, bodies]):
            _take_nulls(one)
    if os.environ.get("FUZZ_MASKED"):
        for one in _objects(schemas):
            _mask(one)
    schemas |= asked
    for one in _objects(raw_schema):
        one.setdefault("additionalProperties", False)


def _mask(schema: Schema) -> None:
    """Lets go of the rules of what is personal: masked, two texts may be one, and what has no mask is left out."""
    for name, one in schema["properties"].items():
        if "x-data-class" in one:
            schema["properties"][name] = {key: inner for key, inner in one.items() if key in _KEPT}
            schema["required"] = [other for other in schema.get("required", []) if other != name]


def _contents(operation: Schema) -> Schema:
    found: Schema = operation.get("requestBody", {}).get("content", {})
    return found


def _take_nulls(schema: Schema) -> None:
    """Lets optional fields be null, which says nothing, as in the JSON mapping of protobuf."""
    for name, one in schema["properties"].items():
        if name not in schema.get("required", ()) and not one.get("readOnly"):
            schema["properties"][name] = {"anyOf": [one, {"type": "null"}]}


def _objects(value: Any) -> Iterator[Schema]:
    if isinstance(value, dict):
        if value.get("type") == "object" and "properties" in value:
            yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _narrow(asked: Schema, operations: list[Schema], schemas: Schema) -> None:
    """Leaves of what requests may hold only what has a meaning."""
    for name, properties in _MEANT.items():
        if _ASKED + name in asked:
            _apply(asked[_ASKED + name], name, properties)
    for operation in operations:
        known = [one for one in operation["parameters"] if one["name"] != "update_mask"]
        operation["parameters"] = [_parameter(one, operation, schemas) for one in known]
        contents = _contents(operation)
        if "*/*" in contents:
            contents["text/plain"] = {"schema": {"type": "string", "pattern": "^[ -~]+$"}}
            del contents["*/*"]
        for content in contents.values():
            _narrow_body(content["schema"])


def _narrow_body(schema: Schema) -> None:
    _narrow_patch(schema)
    if "mapping" in schema.get("properties", {}):
        schema["properties"]["mapping"] = {"enum": [{}]}


def _narrow_patch(schema: Schema) -> None:
    """A patch's body is written out, not referred to: it is the message's that has all of its fields."""
    for name, properties in _MEANT.items():
        if properties.keys() <= schema.get("properties", {}).keys():
            _apply(schema, name, properties)
            schema["minProperties"] = 1
            for fixed in _FIXED[name]:
                del schema["properties"][fixed]


def _apply(schema: Schema, name: str, properties: Schema) -> None:
    schema["properties"] |= properties
    for unused in _UNUSED.get(name, ()):
        del schema["properties"][unused]


def _apart(value: Any) -> Any:
    return json.loads(json.dumps(value).replace(_PREFIX, _PREFIX + _ASKED))


def _parameter(one: Schema, operation: Schema, schemas: Schema) -> Schema:
    if one["name"] == "page_token":
        return one | {"schema": _EMPTY}
    return one | {"schema": {"enum": ["", *_shown(operation, schemas)]}} if one["name"] == "fields" else one


def _shown(operation: Schema, schemas: Schema) -> Iterator[str]:
    """What `fields` may ask for so that the answer still has what its schema requires and its links need."""
    done = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
    for content in done["content"].values():
        shown = schemas[content["schema"]["$ref"].removeprefix(_PREFIX)]
        if "links" not in done:
            yield from [",".join(shown["required"])] if "required" in shown else shown["properties"]


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    """Takes out what would only say something about the one who asks."""
    for name in ("If-Match", "Idempotency-Key", "Request-Timeout"):
        if case.headers.get(name) in ("", None, "null"):
            case.headers.pop(name, None)  # an empty header says nothing, as one that is not there
    _wait_longer(case.headers)
    if meant() and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid4())  # one that came before is a repetition, whatever the body says
    if "customer-attributes" in case.path and isinstance(case.body, dict) and case.body.get("required") is True:
        case.body["required"] = False  # every customer of the rest of the run would have to have it


def _wait_longer(headers: Any) -> None:
    """Who waits for no time is told so with 504, as asked; a late answer to others is a finding."""
    try:
        seconds = float(headers.get("Request-Timeout", ""))
    except ValueError:
        return
    if 0 < seconds < _PATIENCE_SECONDS:
        headers["Request-Timeout"] = f"{_PATIENCE_SECONDS:g}"
