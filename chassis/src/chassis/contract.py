"""Reads contracts: operations of a service, events of a package, classes of fields, rules of messages."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import crm
import protovalidate
from crm.options.v1 import options_pb2
from google.api import annotations_pb2, http_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import Message

from chassis.errors import Invalid, Violation

_validator = protovalidate.Validator()


@dataclass(frozen=True)
class Operation:
    """One operation as its contract describes it."""

    method: MethodDescriptor
    scope: str
    idempotency: int
    route: http_pb2.HttpRule
    request: type[Message]
    response: type[Message]

    @property
    def name(self) -> str:
        """`crm.customer.v1.CustomerService/GetCustomer`."""
        return f"{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def upstream(self) -> str:
        """The service that owns the operation: `customer` of package crm.customer.v1."""
        return service_of(self.method.full_name)

    @property
    def safe(self) -> bool:
        """Whether the operation changes nothing."""
        return self.idempotency == options_pb2.IDEMPOTENCY_SAFE

    @property
    def keyed(self) -> bool:
        """Whether a repetition with the same `request_id` returns the first answer."""
        return self.idempotency == options_pb2.IDEMPOTENCY_KEYED


def service_of(full_name: str) -> str:
    """The owning service of anything in a contract, hyphenated as outside Python: `service-desk`."""
    return full_name.split(".")[1].replace("_", "-")


@cache
def load() -> tuple[str, ...]:
    """Imports every contract installed below `crm` and returns their file names, sorted."""
    # Generated packages have no `__init__`, so the import system cannot list them.
    found = [(path, root) for root in map(Path, crm.__path__) for path in root.rglob("*_pb2.py")]
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path, root in found]
    return tuple(sorted(importlib.import_module(name).DESCRIPTOR.name for name in names))


def services() -> Iterator[ServiceDescriptor]:
    """Every service of the installed contracts."""
    for file in load():
        yield from default_pool().FindFileByName(file).services_by_name.values()


def messages() -> Iterator[Descriptor]:
    """Every message of the installed contracts, nested ones included, map entries not."""
    for file in load():
        yield from _nested(default_pool().FindFileByName(file).message_types_by_name.values())


def _nested(descriptors: Any) -> Iterator[Descriptor]:
    for one in descriptors:
        if not one.GetOptions().map_entry:
            yield one
            yield from _nested(one.nested_types)


def operations(*, upstream: str | None = None) -> list[Operation]:
    """The operations of the installed contracts, or of one service."""
    found = [operation(method) for service in services() for method in service.methods]
    return [one for one in found if upstream in (None, one.upstream)]


def upstreams() -> list[str]:
    """The services that answer operations, sorted: `analytics`, `customer`."""
    return sorted({one.upstream for one in operations()})


@cache
def operation(method: MethodDescriptor) -> Operation:
    """The operation that `method` declares."""
    options: Any = method.GetOptions()
    return Operation(
        method=method,
        scope=options.Extensions[options_pb2.scope],
        idempotency=options.Extensions[options_pb2.idempotency],
        route=options.Extensions[annotations_pb2.http],
        request=message_factory.GetMessageClass(method.input_type),
        response=message_factory.GetMessageClass(method.output_type),
    )


@cache
def event_options(descriptor: Descriptor) -> options_pb2.Event | None:
    """What the contract says of an event; None where the message is no event."""
    options: Any = descriptor.GetOptions()
    return options.Extensions[options_pb2.event] if options.HasExtension(options_pb2.event) else None


@cache
def events() -> dict[str, type[Message]]:
    """Every event of the installed contracts by its full name."""
    return {one.full_name: message_factory.GetMessageClass(one) for one in messages() if event_options(one)}


def data_class(field: FieldDescriptor) -> int:
    """How sensitive a field is; INTERNAL where the contract says nothing."""
    options: Any = field.GetOptions()
    return options.Extensions[options_pb2.data] or options_pb2.DATA_CLASS_INTERNAL


def read(message: Message, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        message = getattr(message, name)
    return message


def validate(message: Message) -> None:
    """Checks a message against the rules in its contract; raises `Invalid` with every violation."""
    found = _validator.collect_violations(message)
    if found:
        raise Invalid(Violation(_path(one.proto.field), _sentence(one.proto)) for one in found)


def _sentence(violation: Any) -> str:
    return violation.message or f"breaks the rule {violation.rule_id}"


def _path(field: Any) -> str:
    path = ""
    for element in field.elements if field else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None:
            path += f'["{subscript.value}"]' if isinstance(subscript.value, str) else f"[{subscript.value}]"
    return path
