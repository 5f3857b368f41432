"""CONTRIBUTING.md lists the places to touch; what stands must have touched them all."""

import re
from pathlib import Path

import pytest

from chassis import contract
from gateway import policy

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SERVICES = contract.upstreams()
NAMED_IN = ("deploy/compose.yaml", "deploy/prometheus.yml", "pyproject.toml")


def places(heading: str) -> list[tuple[list[str], bool]]:
    """The places each numbered step below a heading names, and whether one of them is enough."""
    section = GUIDE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. (.*?):", section, flags=re.MULTILINE)
    return [(re.findall(r"`([^`]+)`", step), " or " in step) for step in steps]


def missing(heading: str, service: str) -> list[str]:
    """The steps that a service has not been through."""
    found = [(names, one_is_enough, [bool(existing(name, service)) for name in names])
             for names, one_is_enough in places(heading)]  # fmt: skip
    return [", ".join(names) for names, one_is_enough, there in found if not (any if one_is_enough else all)(there)]


def existing(place: str, service: str) -> list[Path]:
    pattern = place.replace("<service>", service).replace("<package>", service.replace("-", "_"))
    return [path for path in ROOT.glob(pattern) if path.name not in NAMED_IN or service in path.read_text("utf-8")]


def test_the_guide_names_places() -> None:
    assert [len(places(heading)) for heading in ("Add an operation", "Add an event", "Add a service")] == [6, 3, 9]
    assert missing("Add a service", "nobody") != []


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_in_every_place_the_guide_names(service: str) -> None:
    assert missing("Add a service", service) == []
    assert missing("Add an operation", service) == []


def test_every_service_with_events_is_in_every_place_the_guide_names() -> None:
    owners = {contract.service_of(name) for name in contract.events()}
    assert owners
    assert [missing("Add an event", service) for service in owners] == [[] for _ in owners]


def test_every_operation_is_granted_to_somebody() -> None:
    granted = {scope for role in policy.load_roles().values() for scope in role.scopes}
    assert {one.scope for one in contract.operations()} <= granted
