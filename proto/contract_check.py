"""What every contract must say, and what no release may change: `python proto/contract_check.py [--release]`.

Prints one line for each fault and exits 1 when there is any. With `--release` it writes `released.txt` anew: the list
of everything that must stay as it is from then on.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from buf.validate import validate_pb2
from crm.options.v1 import options_pb2
from google.api import annotations_pb2, field_behavior_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool

HERE = Path(__file__).resolve().parent
RELEASED = HERE / "released.txt"
# Message types of others whose values can hold anything a person writes, or a date of birth.
OPEN_TYPES = {
    "google.protobuf.Value",
    "google.protobuf.Struct",
    "google.api.HttpBody",
    "google.type.Date",
    "google.type.PostalAddress",
    "google.type.PhoneNumber",
    "google.type.LatLng",
}
_VERBS = ("get", "put", "post", "delete", "patch")


def faults(compiled: Path) -> list[str]:
    """Everything wrong with the contracts in a descriptor set."""
    found: list[str] = []
    for file in files(compiled):
        for service in file.services_by_name.values():
            found += _service_faults(service)
        for message in _messages(file):
            found += _message_faults(message)
    return found


def files(compiled: Path) -> list[Any]:
    """Our own files of a descriptor set, sorted by name."""
    pool, ours = DescriptorPool(), []
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file:
        pool.Add(file)
        if file.package.startswith("crm.") and file.package != "crm.options.v1":
            ours.append(file.name)
    return [pool.FindFileByName(name) for name in sorted(ours)]


def _messages(file: Any) -> Iterator[Any]:
    def nested(descriptors: Iterable[Any]) -> Iterator[Any]:
        for one in descriptors:
            if not one.GetOptions().map_entry:
                yield one
                yield from nested(one.nested_types)

    yield from nested(file.message_types_by_name.values())


# --- operations ------------------------------------------------------------------------------------------------------


def _service_faults(service: Any) -> Iterator[str]:
    for method in service.methods:
        options = method.GetOptions()
        route = options.Extensions[annotations_pb2.http]
        if route.WhichOneof("pattern") not in _VERBS:
            yield f"{method.full_name}: has no route (google.api.http)"
        if not options.Extensions[options_pb2.scope]:
            yield f"{method.full_name}: has no scope (crm.options.v1.scope)"
        yield from _idempotency_faults(method, options.Extensions[options_pb2.idempotency], route)
        for field in _reachable(method.input_type, set()):
            if not _validated(field):
                yield f"{field.full_name}: is taken by {method.name} without a rule (buf.validate)"


def _idempotency_faults(method: Any, idempotency: int, route: Any) -> Iterator[str]:
    fields = method.input_type.fields_by_name
    if idempotency == options_pb2.IDEMPOTENCY_UNSPECIFIED:
        yield f"{method.full_name}: does not say what a repetition does (crm.options.v1.idempotency)"
    if idempotency == options_pb2.IDEMPOTENCY_KEYED and "request_id" not in fields:
        yield f"{method.full_name}: is keyed but takes no request_id"
    if (idempotency == options_pb2.IDEMPOTENCY_SAFE) != (route.WhichOneof("pattern") == "get"):
        yield f"{method.full_name}: safe operations, and only these, are read with GET"


def _reachable(message: Any, seen: set[str]) -> Iterator[Any]:
    """Every field a request can fill, what the service sets itself left out."""
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        if _set_by_service(field):
            continue
        yield field
        inner = field.message_type
        if inner is not None and inner.full_name.startswith("crm.") and not inner.GetOptions().map_entry:
            yield from _reachable(inner, seen)


def _set_by_service(field: Any) -> bool:
    behaviour: Any = field_behavior_pb2.FieldBehavior
    return behaviour.Value("OUTPUT_ONLY") in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def _validated(field: Any) -> bool:
    rules: Any = field.GetOptions().Extensions[validate_pb2.field]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return bool(rules.map.HasField("max_pairs")) and _bounded(value, rules.map.values)
    if field.is_repeated:
        return bool(rules.repeated.HasField("max_items")) and _bounded(field, rules.repeated.items)
    return _bounded(field, rules)


def _bounded(field: Any, rules: Any) -> bool:
    if field.enum_type is not None:
        return bool(rules.enum.defined_only)
    if field.type == field.TYPE_STRING:
        return bool(rules.string.HasField("max_len") or rules.string.HasField("pattern"))
    if field.type == field.TYPE_BYTES:
        return bool(rules.bytes.HasField("max_len"))
    free = (field.CPPTYPE_MESSAGE, field.CPPTYPE_BOOL)
    return field.cpp_type in free or rules.WhichOneof("type") is not None


# --- messages --------------------------------------------------------------------------------------------------------


def _message_faults(message: Any) -> Iterator[str]:
    for field in message.fields:
        if _can_be_personal(field) and not field.GetOptions().Extensions[options_pb2.data]:
            yield f"{field.full_name}: can hold personal data and has no class (crm.options.v1.data)"
    if message.file.name.endswith("/events.proto") and message.containing_type is None:
        yield from _event_faults(message)


def _can_be_personal(field: Any) -> bool:
    if field.message_type is None:
        return field.type in (field.TYPE_STRING, field.TYPE_BYTES)
    if field.message_type.GetOptions().map_entry:
        return any(_can_be_personal(one) for one in field.message_type.fields)
    return field.message_type.full_name in OPEN_TYPES


def _event_faults(message: Any) -> Iterator[str]:
    options = message.GetOptions()
    if not options.HasExtension(options_pb2.event):
        yield f"{message.full_name}: stands among the events and is none (crm.options.v1.event)"
        return
    event = options.Extensions[options_pb2.event]
    if not event.aggregate:
        yield f"{message.full_name}: does not say whose history it belongs to"
    for path in filter(None, (event.key or "(no key)", event.touch.customer, event.touch.summary, event.touch.channel)):
        if not _leads_to_text(message, path.split(".")):
            yield f"{message.full_name}: {path} is not a text field of it"


def _leads_to_text(message: Any, names: list[str]) -> bool:
    field = message.fields_by_name.get(names[0]) if message is not None else None
    if field is None:
        return False
    return _leads_to_text(field.message_type, names[1:]) if names[1:] else field.type == field.TYPE_STRING


# --- releases --------------------------------------------------------------------------------------------------------


def surface(compiled: Path) -> list[str]:
    """Everything of the contracts that others rely on, a line each, sorted."""
    found: set[str] = set()
    for file in files(compiled):
        for message in _messages(file):
            found |= {f"field {field.full_name} = {field.number} {_type(field)}" for field in message.fields}
            found |= {line for enum in message.enum_types for line in _values(enum)}
        found |= {line for enum in file.enum_types_by_name.values() for line in _values(enum)}
        for service in file.services_by_name.values():
            found |= {_signature(method) for method in service.methods}
    return sorted(found)


def _type(field: Any) -> str:
    kind = field.message_type or field.enum_type
    name = kind.full_name if kind is not None else descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
    return f"repeated {name}" if field.is_repeated else name


def _values(enum: Any) -> list[str]:
    return [f"value {enum.full_name}.{value.name} = {value.number}" for value in enum.values]


def _signature(method: Any) -> str:
    def kind(streams: bool, message: Any) -> str:
        return f"{'stream ' if streams else ''}{message.full_name}"

    route = method.GetOptions().Extensions[annotations_pb2.http]
    verb = route.WhichOneof("pattern")
    given, answer = kind(method.client_streaming, method.input_type), kind(method.server_streaming, method.output_type)
    return f"operation {method.full_name}: {verb} {getattr(route, verb or 'get')} {given} -> {answer}"


def broken(compiled: Path, released: Iterable[str]) -> list[str]:
    """What a release promised and the contracts no longer say."""
    return sorted(set(released) - set(surface(compiled)))


def main() -> int:
    """The command line."""
    compiled = HERE / "gen" / "contracts.binpb"
    if "--release" in sys.argv:
        RELEASED.write_text("\n".join(surface(compiled)) + "\n", encoding="utf-8")
    found = faults(compiled) + [f"changed since its release: {line}" for line in broken(compiled, released())]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def released() -> list[str]:
    """The lines of the last release."""
    return RELEASED.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    sys.exit(main())
