"""The HTTP face of every operation, read from its contract."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor
from werkzeug.routing import BaseConverter

from chassis import contract
from chassis.contract import Operation

_VERBS = ("get", "put", "post", "delete", "patch")
_VARIABLE = re.compile(r"\{([a-z_.]+)\}")
HTTP_BODY = "google.api.HttpBody"


class Segment(BaseConverter):
    """A variable of a path. It holds no colon: `/v1/customers/{customer_id}` is not the address of `:archive`."""

    regex = "[^/:]+"
    part_isolating = True


@dataclass(frozen=True)
class Route:
    """One operation over HTTP: method, path template, and where its message's fields travel.

    `body` is the field the request body fills: a name, `*` for the whole message, or empty; `answer` the field of
    the response that is the response body, empty for all of it.
    """

    operation: Operation
    method: str
    path: str
    body: str
    answer: str

    @property
    def variables(self) -> tuple[str, ...]:
        """Paths of the fields in the path template."""
        return tuple(_VARIABLE.findall(self.path))

    @property
    def template(self) -> str:
        """The path as documents write it, with the last names of its variables: what has one address has one path."""
        return _VARIABLE.sub(lambda found: f"{{{last(found[1])}}}", self.path)

    @property
    def rule(self) -> str:
        """The path as a Flask rule; dots in a variable become double underscores."""
        return _VARIABLE.sub(lambda found: f"<{found[1].replace('.', '__')}>", self.path)

    @property
    def fields(self) -> Any:
        """Fields of the request message by name."""
        return self.operation.request.DESCRIPTOR.fields_by_name

    @property
    def keyed(self) -> bool:
        """Whether a repetition needs or takes an Idempotency-Key."""
        return "request_id" in self.fields

    @property
    def versioned(self) -> bool:
        """Whether the request must say with If-Match which version it changes."""
        return "version" in self.fields

    @property
    def creates(self) -> bool:
        """Whether success means that something new exists: a keyed POST to a collection."""
        return self.method == "POST" and self.keyed and ":" not in self.path

    @property
    def uploads(self) -> bool:
        """Whether the request body is a file that streams."""
        return self.operation.method.client_streaming

    @property
    def downloads(self) -> bool:
        """Whether the response body is a file that streams."""
        return self.operation.method.server_streaming

    @property
    def selects(self) -> bool:
        """Whether the client may ask for some fields of the answer only."""
        return not self.uploads and not self.downloads

    @property
    def shown(self) -> Descriptor:
        """The message type of the response body."""
        response: Any = self.operation.response.DESCRIPTOR
        found: Descriptor = response.fields_by_name[self.answer].message_type if self.answer else response
        return found


def routes(patterns: Iterable[str] = ("*",)) -> list[Route]:
    """Routes of every operation whose scope fits a pattern (`customer.*`, `*`), in a fixed order."""
    wanted = tuple(patterns)
    return [route(one) for one in contract.operations() if covered(one.scope, wanted)]


def route(one: Operation) -> Route:
    """The route an operation's contract declares; raises `ValueError` where there is none."""
    verb = one.route.WhichOneof("pattern")
    if verb not in _VERBS:
        raise ValueError(f"{one.name} has no HTTP route")
    path = getattr(one.route, verb)
    return Route(one, verb.upper(), path, body=one.route.body, answer=one.route.response_body)


def last(path: str) -> str:
    """The last name of a dotted path: `customer_id` of `customer.customer_id`."""
    return path.rpartition(".")[2]


def covered(scope: str, patterns: Iterable[str]) -> bool:
    """Whether a scope fits one of the patterns."""
    return any(one in ("*", scope, f"{scope.partition('.')[0]}.*") for one in patterns)
