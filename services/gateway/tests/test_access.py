from importlib.resources import files
from typing import Any
from uuid import uuid4

import pytest
import yaml

from chassis import contract, rpc
from chassis.errors import Denied, Fault
from chassis.events import clock
from gateway import policy
from gateway.routes import Route, routes

TABLE: dict[str, Any] = yaml.safe_load((files("gateway") / "access.yaml").read_text("utf-8"))["roles"]
POLICIES = {name: yaml.safe_load((files("gateway") / "policies" / f"{name}.yaml").read_text("utf-8"))
            for name in ("internal", "public", "partner")}  # fmt: skip
OPERATIONS = {one.operation.name: one for one in routes()}


def fits(scope: str, patterns: list[str]) -> bool:
    area = scope.split(".")[0]
    return "*" in patterns or scope in patterns or f"{area}.*" in patterns


def granted(role: str) -> set[str]:
    return {name for name, route in OPERATIONS.items() if fits(route.operation.scope, TABLE[role]["operations"])}


def knock(client, route: Route):
    """A request that is let through to the operation by whoever may, and then fails or finds nothing."""
    path = route.path
    for name in route.variables:
        path = path.replace(f"{{{name}}}", "nobody")
    return client.request(route.method, path, headers={"Idempotency-Key": str(uuid4())})


@pytest.mark.parametrize("role", TABLE)
def test_the_gateway_allows_exactly_what_the_table_grants(internal, role: str) -> None:
    client = internal.client(role)
    answers = {name: knock(client, route) for name, route in OPERATIONS.items()}
    refused = {name for name, one in answers.items() if one.status_code == 403}
    assert OPERATIONS.keys() - refused == granted(role)
    assert {answers[name].json()["type"] for name in refused} <= {"urn:guanxi:problem:missing-scope"}
    assert {one.status_code for one in answers.values()} <= {200, 400, 403, 404, 415, 428}


@pytest.mark.parametrize("role", TABLE)
def test_the_services_allow_exactly_what_the_table_grants(stack, internal, role: str) -> None:
    token = stack.signer.mint(policy.caller("channel:test", [role], policy.load_roles()), clock())
    stubs = {name: one.stub for name, one in internal.door.upstreams.by_name.items()}
    refused = {one.name for one in contract.operations() if denied(stubs[one.upstream], one, token)}
    assert OPERATIONS.keys() - refused == granted(role)


def denied(stub: rpc.Stub, one: contract.Operation, token: str) -> bool:
    try:
        if one.method.server_streaming:
            list(stub.receive(one, one.request(), token=token, seconds=5))
        elif one.method.client_streaming:
            stub.send(one, iter([one.request()]), token=token, seconds=5)
        else:
            stub.call(one, one.request(), token=token, seconds=5)
    except Denied as error:
        return error.reason == "MISSING_SCOPE"
    except Fault:
        return False
    return False


def test_who_holds_no_known_role_may_do_nothing(internal) -> None:
    client = internal.client("a-role-that-was-removed")
    assert {knock(client, route).status_code for route in OPERATIONS.values()} == {403}


def test_without_credentials_every_operation_is_refused_the_same_way(internal) -> None:
    client = internal.with_headers()
    answers = [knock(client, route) for route in OPERATIONS.values()]
    assert {one.status_code for one in answers} == {401}
    assert all(one.headers["WWW-Authenticate"] == 'Bearer realm="guanxi"' for one in answers)


@pytest.mark.parametrize("name", ["public", "partner"])
def test_an_operation_outside_the_policy_is_not_there(stack, name: str) -> None:
    client = stack.gateway(name).client("administrator")
    hidden = {one.operation.name for one in OPERATIONS.values() if knock(client, one).status_code in (404, 405)
              and not fits(one.operation.scope, POLICIES[name]["operations"])}  # fmt: skip
    outside = {n for n, one in OPERATIONS.items() if not fits(one.operation.scope, POLICIES[name]["operations"])}
    assert hidden == outside
    assert outside


def test_a_path_of_another_policy_is_a_plain_404(partner) -> None:
    answer = partner.client("administrator").get("/v1/customers/C1")
    assert (answer.status_code, answer.json()["title"]) == (404, "Not found")


def test_a_key_of_the_wrong_kind_is_turned_away(internal, public, partner) -> None:
    channel_key = internal.client("web").headers["X-Api-Key"]
    partner_key = partner.client("partner").headers["X-Api-Key"]
    path = "/v1/customers:search?query=x"
    assert internal.with_headers(**{"X-Api-Key": partner_key}).get(path).status_code == 403
    assert public.with_headers(**{"X-Api-Key": partner_key}).get(path).status_code == 403
    answer = partner.with_headers(**{"X-Api-Key": channel_key}).get(path)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:guanxi:problem:wrong-gateway")


# --- what they see ---------------------------------------------------------------------------------------------------


def test_an_agent_sees_how_to_reach_a_customer_but_not_her_papers(internal, registered, wang) -> None:
    seen = internal.client("agent").get(f"/v1/customers/{registered['customer_id']}").json()
    assert seen["phones"] == registered["phones"]
    assert seen["birthday"] == "1990-02-28"
    assert "E1234567" not in str(seen)
    assert seen["documents"][0]["kind"] == "PASSPORT"


def test_a_voice_menu_confirms_a_caller_without_learning_anything(internal, registered) -> None:
    found = internal.client("ivr").get("/v1/customers:search", params={"query": registered["customer_number"]})
    (result,) = found.json()["results"]
    assert result["customer"]["customer_id"] == registered["customer_id"]
    assert result["customer"]["names"][0]["full"] == "王•"
    assert result["customer"]["phones"][0]["number"].startswith("•••")
    assert not {"1990-02-28", "E1234567", "photography", "fang.wang@example.com"} & set(texts(result))


def test_an_analyst_lists_customers_without_anything_personal(internal, registered) -> None:
    pages, token = [], ""
    client = internal.client("analyst")
    while not pages or token:
        answer = client.get("/v1/customers", params={"page_size": 200, "page_token": token}).json()
        pages, token = [*pages, *answer["customers"]], answer["next_page_token"]
    seen = next(one for one in pages if one["customer_id"] == registered["customer_id"])
    secrets = [one for one in texts(registered) if one in ("E1234567", "1990-02-28", "photography", "王芳")]
    assert secrets
    assert not {*secrets, registered["phones"][0]["number"]} & set(texts(seen))


def test_an_account_manager_sees_everything_to_talk_about_but_not_the_birthday(internal, registered) -> None:
    client = internal.client("account_manager")
    seen = client.get(f"/v1/customers/{registered['customer_id']}").json()
    assert seen["phones"] == registered["phones"]
    assert seen.get("birthday") is None
    found = client.get("/v1/customers:search", params={"query": registered["customer_number"]}).json()
    assert found["results"][0]["customer"].get("birthday") is None


def test_no_role_sees_more_than_its_gateway_shows_to_anybody(public, partner, registered, wang) -> None:
    seen = public.client("administrator").get(f"/v1/customers/{registered['customer_id']}").json()
    assert (seen["phones"], seen["birthday"]) == (registered["phones"], registered["birthday"])
    assert "E1234567" not in str(seen)
    query = {"query": registered["customer_number"]}
    (result,) = partner.client("administrator").get("/v1/customers:search", params=query).json()["results"]
    assert result["customer"]["customer_id"] == registered["customer_id"]
    hidden = {
        "E1234567",
        "1990-02-28",
        "photography",
        "王芳",
        "fang.wang@example.com",
        registered["phones"][0]["number"],
    }
    assert not hidden & set(texts(result))


def test_what_a_gateway_shows_to_nobody_cannot_be_written_there(public, registered, administrator) -> None:
    path, patch = f"/v1/customers/{registered['customer_id']}", {"documents": None}
    answer = public.client("administrator").patch(path, json=patch, headers={"If-Match": '"1"'})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:guanxi:problem:field-hidden")
    assert administrator.get(path).json() == registered


@pytest.mark.parametrize(
    ("role", "patch"),
    [
        ("account_manager", {"birthday": "1980-01-01"}),
        ("account_manager", {"birthday": None}),
        ("agent", {"documents": [{"kind": "PASSPORT", "number": "•••4567"}]}),
        ("agent", {"documents": None}),
    ],
)
def test_what_is_hidden_cannot_be_written_back(internal, registered, administrator, role: str, patch) -> None:
    path = f"/v1/customers/{registered['customer_id']}"
    answer = internal.client(role).patch(path, json=patch, headers={"If-Match": '"1"'})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:guanxi:problem:field-hidden")
    assert administrator.get(path).json() == registered


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []
