"""The two files that say what a gateway exposes and what a role may do and see."""

from pathlib import Path

import pytest
import yaml
from crm.customer.v1 import customer_pb2
from hypothesis import given
from hypothesis import strategies as st

from chassis import contract, privacy
from gateway import policy
from gateway.policy import Quota
from gateway.routes import covered

ROLES = policy.load_roles()
BIRTHDAY = "crm.customer.v1.Customer.birthday"
GOOD = {
    "name": "x",
    "authentication": ["channel"],
    "operations": ["*"],
    "quota": {"requests": 1, "seconds": 1},
    "concurrency": 1,
}
ROLE = {"channel": "WEB", "operations": ["customer.read"], "sees": ["PUBLIC"]}


def roles_of(tmp_path: Path, **changes) -> dict[str, policy.Role]:
    path = tmp_path / "access.yaml"
    path.write_text(yaml.safe_dump({"roles": {"r": {**ROLE, **changes}}}))
    return policy.load_roles(str(path))


@pytest.mark.parametrize(
    ("scope", "patterns", "fits"),
    [("customer.read", ["customer.read"], True), ("customer.read", ["customer.*"], True), ("a.b", ["*"], True),
     ("customer.read", [], False), ("customer.read", ["customer"], False), ("customer.read", ["customer.rea"], False),
     ("customer.read", ["customer.readers"], False), ("customers.read", ["customer.*"], False)],
)  # fmt: skip
def test_a_pattern_covers_a_scope_or_a_whole_area(scope: str, patterns: list[str], fits: bool) -> None:
    assert covered(scope, patterns) is fits


@given(st.lists(st.sampled_from(sorted(ROLES)), max_size=4))
def test_several_roles_give_the_rights_of_each_and_nothing_more(names: list[str]) -> None:
    together = policy.caller("staff:x", names, ROLES)
    assert together.scopes == frozenset().union(*(ROLES[name].scopes for name in names))
    assert together.sees == frozenset().union(*(ROLES[name].sees for name in names))
    alone = any(ROLES[name].shows(BIRTHDAY) for name in names)
    if names and any(ROLES[name].hides for name in names):
        assert (BIRTHDAY not in together.hides) == alone


def test_a_role_that_sees_nothing_personal_does_not_uncover_what_another_hides() -> None:
    assert BIRTHDAY in policy.caller("staff:x", ["account_manager", "analyst"], ROLES).hides
    assert BIRTHDAY not in policy.caller("staff:x", ["account_manager", "agent"], ROLES).hides


def test_unknown_roles_grant_nothing() -> None:
    nobody = policy.caller("staff:x", ["root", ""], ROLES)
    assert (nobody.roles, nobody.scopes, nobody.sees, nobody.hides) == ((), frozenset(), frozenset(), frozenset())


def test_every_role_works_on_a_channel_the_contract_knows() -> None:
    channels = {name.removeprefix("CHANNEL_") for name in customer_pb2.Channel.DESCRIPTOR.values_by_name}
    assert {role.channel for role in ROLES.values()} <= channels - {"UNSPECIFIED", "SYSTEM"}


def test_no_partner_operation_is_missing_at_the_internal_gateway() -> None:
    inside, outside = policy.load_policy("internal"), policy.load_policy("partner")
    offered = {one.scope for one in contract.operations() if covered(one.scope, outside.operations)}
    assert offered
    assert all(covered(scope, inside.operations) for scope in offered)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"operations": ["customer.reed"]}, "customer.reed"), ({"sees": ["EVERYTHING"]}, "EVERYTHING"),
     ({"hides": ["crm.customer.v1.Customer.shoe_size"]}, "shoe_size"), ({"hide": [BIRTHDAY]}, "hide"),
     ({"scopes": []}, "scopes")],
)  # fmt: skip
def test_a_role_that_names_what_nobody_declared_is_refused(tmp_path: Path, changes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        roles_of(tmp_path, **changes)


@pytest.mark.parametrize(
    "text", ["", "roles", "roles: {r: {channel: WEB}}", "roles: {r: 1}", "role: {}", "a: [", "- a"]
)
def test_an_access_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "access.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        policy.load_roles(str(tmp_path / "access.yaml"))


def test_an_own_access_file_replaces_the_shipped_one(tmp_path: Path) -> None:
    assert roles_of(tmp_path)["r"].scopes == {"customer.read"}


@pytest.mark.parametrize(
    "changes",
    [{"authentication": ["anybody"]}, {"operations": ["nothing.*"]}, {"quota": {"requests": 0, "seconds": 1}},
     {"quota": {"requests": 1.5, "seconds": 1}}, {"concurrency": 0}, {"concurrency": "many"}, {"quotas": {}},
     {"sees": ["EVERYTHING"]}, {"sees": "PUBLIC"}],
)  # fmt: skip
def test_a_policy_that_cannot_work_is_refused(tmp_path: Path, changes) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert policy.load_policy(str(path)).quota == Quota(1, 1)
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    with pytest.raises(ValueError, match=r"."):
        policy.load_policy(str(path))


def test_a_gateway_that_faces_others_bounds_what_anybody_sees_there(tmp_path: Path) -> None:
    seen = {name: policy.load_policy(name).sees for name in ("internal", "public", "partner")}
    assert seen["internal"] == privacy.EVERYTHING
    assert privacy.SENSITIVE not in seen["public"]
    assert not seen["partner"] & {privacy.PERSONAL, privacy.SENSITIVE}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(GOOD))
    assert policy.load_policy(str(tmp_path / "p.yaml")).sees == privacy.EVERYTHING
