"""What a gateway exposes and to whom, and what a role may do and see: two readable files, checked when they load."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from crm.options.v1 import options_pb2
from google.protobuf.descriptor_pool import Default as default_pool

from chassis import contract, privacy
from chassis.identity import Caller
from gateway.routes import covered

KINDS = ("staff", "channel", "partner")


@dataclass(frozen=True)
class Quota:
    """So many requests in each window of so many seconds."""

    requests: int
    seconds: int

    def __post_init__(self) -> None:
        if not all(isinstance(one, int) and one > 0 for one in (self.requests, self.seconds)):
            raise ValueError("a quota needs requests and seconds, both whole numbers above 0")


@dataclass(frozen=True)
class Policy:
    """One gateway: which operations (scope patterns), which kinds of callers, how much, how many calls at once.

    `sees` bounds the data classes that anybody sees in clear here, whatever their role shows them elsewhere.
    """

    name: str
    authentication: tuple[str, ...]
    operations: tuple[str, ...]
    quota: Quota
    concurrency: int
    sees: frozenset[int] = privacy.EVERYTHING


@dataclass(frozen=True)
class Role:
    """What somebody in this role may do and see."""

    channel: str
    scopes: frozenset[str]
    sees: frozenset[int]
    hides: frozenset[str]

    def shows(self, field: str) -> bool:
        """Whether this role alone sees the field of this full name in clear."""
        return field not in self.hides and contract.data_class(default_pool().FindFieldByName(field)) in self.sees


def load_policy(name: str) -> Policy:
    """The policy shipped under this name, or in the file of this path; raises `ValueError` where it is wrong."""
    shipped = files("gateway") / "policies" / f"{name}.yaml"
    found = _yaml(shipped.read_text("utf-8") if shipped.is_file() else Path(name).read_text("utf-8"))
    _require_keys(f"policy {name}", found, ("name", "authentication", "operations", "quota", "concurrency"),
                  optional=("sees",))  # fmt: skip
    unknown = set(found["authentication"]) - set(KINDS)
    if unknown:
        raise ValueError(f"policy {name}: no such authentication: {', '.join(sorted(unknown))}")
    _require_scopes(f"policy {name}", found["operations"])
    if not isinstance(found["concurrency"], int) or found["concurrency"] < 1:
        raise ValueError(f"policy {name}: concurrency must be a whole number above 0")
    return Policy(
        name=found["name"],
        authentication=tuple(found["authentication"]),
        operations=tuple(found["operations"]),
        quota=Quota(**found["quota"]),
        concurrency=found["concurrency"],
        sees=_classes(found["sees"]) if "sees" in found else privacy.EVERYTHING,
    )


def load_roles(path: str = "") -> dict[str, Role]:
    """The roles in the file, or in the one shipped; raises `ValueError` for a scope, class or field nobody declared."""
    found = _yaml(Path(path).read_text("utf-8") if path else (files("gateway") / "access.yaml").read_text("utf-8"))
    _require_keys("access file", found, ("roles",))
    return {name: _role(name, given) for name, given in found["roles"].items()}


def _role(name: str, given: dict[str, Any]) -> Role:
    # An unknown key is refused: "hide" for "hides" would show what it was written to hide.
    _require_keys(f"role {name}", given, ("channel", "operations", "sees"), optional=("hides",))
    _require_scopes(f"role {name}", given["operations"])
    hides = frozenset(given.get("hides", ()))
    fields = {field.full_name for message in contract.messages() for field in message.fields}
    if hides - fields:
        raise ValueError(f"role {name}: no such field: {', '.join(sorted(hides - fields))}")
    return Role(
        channel=given["channel"],
        scopes=frozenset(scope for scope in _scopes() if covered(scope, given["operations"])),
        sees=_classes(given["sees"]),
        hides=hides,
    )


def _classes(names: Iterable[str]) -> frozenset[int]:
    return frozenset(options_pb2.DataClass.Value(f"DATA_CLASS_{one}") for one in names)


def _scopes() -> set[str]:
    return {one.scope for one in contract.operations()}


def _require_scopes(what: str, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        if not any(covered(scope, [pattern]) for scope in _scopes()):
            raise ValueError(f"{what}: no operation has the scope {pattern}")


def _require_keys(what: str, found: Any, needed: Iterable[str], *, optional: Iterable[str] = ()) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{what}: must be a mapping")
    missing, unknown = set(needed) - set(found), set(found) - {*needed, *optional}
    if missing or unknown:
        raise ValueError(f"{what}: lacks {sorted(missing)}, does not know {sorted(map(str, unknown))}")


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from None


def caller(subject: str, names: Iterable[str], roles: dict[str, Role], *, channel: str = "") -> Caller:
    """Somebody with these roles: the rights of all of them together; unknown roles grant nothing.

    What one role hides is shown only if another shows it by itself.
    """
    held = {name: roles[name] for name in names if name in roles}
    hidden = frozenset().union(*(role.hides for role in held.values()))
    return Caller(
        subject=subject,
        channel=channel or next((role.channel for role in held.values()), ""),
        roles=tuple(held),
        scopes=frozenset().union(*(role.scopes for role in held.values())),
        sees=frozenset().union(*(role.sees for role in held.values())),
        hides=frozenset(field for field in hidden if not any(role.shows(field) for role in held.values())),
    )
