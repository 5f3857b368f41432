"""What a gateway exposes and to whom, and what a role may do and see: two readable files, checked when they load."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from crm.options.v1 import options_pb2

from chassis import contract
from chassis.identity import Caller
from gateway.routes import covered

KINDS = ("staff", "channel", "partner")


@dataclass(frozen=True)
class Quota:
    """So many requests in each window of so many seconds."""

    requests: int
    seconds: int


@dataclass(frozen=True)
class Policy:
    """One gateway: which operations (scope patterns), which kinds of callers, how much, how many calls at once."""

    name: str
    authentication: tuple[str, ...]
    operations: tuple[str, ...]
    quota: Quota
    concurrency: int


@dataclass(frozen=True)
class Role:
    """What somebody in this role may do and see."""

    channel: str
    scopes: frozenset[str]
    sees: frozenset[int]
    hides: frozenset[str]


def load_policy(name: str) -> Policy:
    """The policy shipped under this name, or in the file of this path; raises `ValueError` where it is wrong."""
    shipped = files("gateway") / "policies" / f"{name}.yaml"
    text = shipped.read_text("utf-8") if shipped.is_file() else Path(name).read_text("utf-8")
    found = yaml.safe_load(text)
    unknown = set(found["authentication"]) - set(KINDS)
    if unknown:
        raise ValueError(f"policy {name}: no such authentication: {', '.join(sorted(unknown))}")
    return Policy(
        name=found["name"],
        authentication=tuple(found["authentication"]),
        operations=tuple(found["operations"]),
        quota=Quota(**found["quota"]),
        concurrency=int(found["concurrency"]),
    )


def load_roles(path: str = "") -> dict[str, Role]:
    """The roles in the file, or in the one shipped; raises `ValueError` for a scope, class or field nobody declared."""
    text = Path(path).read_text("utf-8") if path else (files("gateway") / "access.yaml").read_text("utf-8")
    return {name: _role(name, given) for name, given in yaml.safe_load(text)["roles"].items()}


def _role(name: str, given: dict[str, Any]) -> Role:
    known = {one.scope for one in contract.operations()}
    for pattern in given["operations"]:
        if not any(covered(scope, [pattern]) for scope in known):
            raise ValueError(f"role {name}: no operation has the scope {pattern}")
    hides = frozenset(given.get("hides", ()))
    fields = {field.full_name for message in contract.messages() for field in message.fields}
    if hides - fields:
        raise ValueError(f"role {name}: no such field: {', '.join(sorted(hides - fields))}")
    return Role(
        channel=given["channel"],
        scopes=frozenset(scope for scope in known if covered(scope, given["operations"])),
        sees=frozenset(options_pb2.DataClass.Value(f"DATA_CLASS_{one}") for one in given["sees"]),
        hides=hides,
    )


def caller(subject: str, names: Iterable[str], roles: dict[str, Role], *, channel: str = "") -> Caller:
    """Somebody with these roles: the rights of all of them together; unknown roles grant nothing."""
    held = [(name, roles[name]) for name in names if name in roles]
    hidden = [role.hides for _, role in held]
    return Caller(
        subject=subject,
        channel=channel or next((role.channel for _, role in held), ""),
        roles=tuple(name for name, _ in held),
        scopes=frozenset().union(*(role.scopes for _, role in held)),
        sees=frozenset().union(*(role.sees for _, role in held)),
        hides=frozenset.intersection(*hidden) if hidden else frozenset(),
    )
