"""What the gateways say of themselves is valid, complete and true."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from gateway import docs, policy
from gateway.routes import routes

POLICIES = ("internal", "public", "partner")


@pytest.fixture(scope="module")
def documents(internal, public, partner) -> dict[str, dict[str, Any]]:
    gateways = {"internal": internal, "public": public, "partner": partner}
    return {name: gateway.with_headers().get("/openapi.json").json() for name, gateway in gateways.items()}


@pytest.fixture(scope="module")
def document(documents) -> dict[str, Any]:
    return documents["internal"]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            yield path, method, one


def contents(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for _, _, one in operations(document):
        for part in (one.get("requestBody", {}), *one["responses"].values()):
            yield from part.get("content", {}).values()


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    whole = Resource.from_contents(_absolute(document), default_specification=DRAFT202012)
    return Draft202012Validator(_absolute(schema), registry=Registry().with_resource("urn:document", whole))


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: f"urn:document{inner}" if name == "$ref" else _absolute(inner) for name, inner in value.items()}
    return [_absolute(one) for one in value] if isinstance(value, list) else value


def schema_of(document: dict[str, Any], method: str, path: str, status: str) -> dict[str, Any]:
    (content,) = document["paths"][path][method]["responses"][status]["content"].values()
    return content["schema"]


@pytest.mark.parametrize("name", POLICIES)
def test_the_document_has_the_form_of_openapi_3_1(documents, name: str) -> None:
    found = documents[name]
    assert found["openapi"] == "3.1.0"
    assert found["info"].keys() >= {"title", "version"}
    names = [one["operationId"] for _, _, one in operations(found)]
    assert len(names) == len(set(names)) > 0
    for path, method, one in operations(found):
        assert path.startswith("/")
        assert method in {"get", "post", "put", "patch", "delete"}
        variables = {part["name"] for part in one["parameters"] if part["in"] == "path"}
        assert variables == set(re.findall(r"\{(.+?)\}", path))
        places = [(part["name"], part["in"]) for part in one["parameters"]]
        assert len(places) == len(set(places))
        assert all(part["in"] in ("path", "query", "header") and "schema" in part for part in one["parameters"])
        assert all(part.get("required") for part in one["parameters"] if part["in"] == "path")
        assert all(answer["description"] for answer in one["responses"].values())
        assert one["summary"]
        assert one["description"]
    assert all(scheme in found["components"]["securitySchemes"] for way in found["security"] for scheme in way)


@pytest.mark.parametrize("name", POLICIES)
def test_every_schema_is_one_and_every_reference_leads_somewhere(documents, name: str) -> None:
    found = documents[name]
    schemas = found["components"]["schemas"]
    parameters = [part["schema"] for _, _, one in operations(found) for part in one["parameters"]]
    for schema in (*schemas.values(), *parameters, *(one["schema"] for one in contents(found))):
        Draft202012Validator.check_schema(schema)
    used = set(re.findall(r"'\$ref': '#/components/schemas/([^']+)'", str(found)))
    assert used == schemas.keys()


@pytest.mark.parametrize("name", POLICIES)
def test_every_route_of_the_policy_is_in_its_document_and_no_other(documents, stack, name: str) -> None:
    expected = {(one.template, one.method.lower()) for one in routes(policy.load_policy(name).operations)}
    assert {(path, method) for path, method, _ in operations(documents[name])} == expected


@pytest.mark.parametrize("name", POLICIES)
def test_what_has_one_address_has_one_path(documents, name: str) -> None:
    shapes = [re.sub(r"\{.+?\}", "{}", path) for path in documents[name]["paths"]]
    assert len(shapes) == len(set(shapes))
    assert {"get", "patch"} <= documents["internal"]["paths"]["/v1/customers/{customer_id}"].keys()


@pytest.mark.parametrize("name", POLICIES)
def test_an_address_takes_the_methods_its_document_names_and_no_other(request, documents, name: str) -> None:
    client = request.getfixturevalue(name).with_headers()
    for path, methods in documents[name]["paths"].items():
        refused = client.options(re.sub(r"\{.+?\}", "x", path))
        assert refused.status_code == 405
        known = {one.upper() for one in methods} | ({"HEAD"} if "get" in methods else set())
        assert refused.headers["Allow"] == ", ".join(sorted(known))


def test_what_is_new_links_to_all_that_can_be_done_with_it(document) -> None:
    links = {
        one["operationId"]: set(answer["links"])
        for _, _, one in operations(document)
        for answer in one["responses"].values()
        if "links" in answer
    }
    of_customer = {"GetCustomer", "ListInteractions", "RecordInteraction"}
    assert links == {
        "RegisterCustomer": {*of_customer, "UpdateCustomer", "ArchiveCustomer"},
        "RecordInteraction": {*of_customer, "GetInteraction", "CloseInteraction"},
        "DefineAttribute": {"UpdateAttribute"},
        "CreateImport": {"GetImport", "UploadImport", "CancelImport", "DownloadRejectedRows"},
    }


@pytest.mark.parametrize("name", POLICIES)
def test_a_link_leads_to_an_operation_of_the_same_gateway_and_fills_its_path(documents, name: str) -> None:
    known = {one["operationId"]: one["parameters"] for _, _, one in operations(documents[name])}
    for _, _, one in operations(documents[name]):
        for link in (link for answer in one["responses"].values() for link in answer.get("links", {}).values()):
            parameters = known[link["operationId"]]
            filled = {f"{part['in']}.{part['name']}" for part in parameters if part["in"] == "path"}
            versioned = any(part["name"] == "If-Match" for part in parameters)
            assert link["parameters"].keys() == filled | ({"header.If-Match"} if versioned else set())


def test_a_link_followed_as_it_is_written_changes_what_is_new(document, administrator, wang) -> None:
    made = administrator.post("/v1/customers", json=wang, headers={"Idempotency-Key": str(uuid4())})
    link = document["paths"]["/v1/customers"]["post"]["responses"]["201"]["links"]["UpdateCustomer"]
    assert link["parameters"] == {
        "path.customer_id": "$response.body#/customer_id",
        "header.If-Match": "$response.header.ETag",
    }
    headers = {"If-Match": made.headers["ETag"], "Idempotency-Key": str(uuid4())}
    path = f"/v1/customers/{made.json()['customer_id']}"
    changed = administrator.patch(path, json={"interests": []}, headers=headers)
    assert (changed.status_code, changed.json()["interests"]) == (200, [])


def test_an_operation_says_what_it_is_for_and_which_right_it_needs(document) -> None:
    one = document["paths"]["/v1/customers"]["post"]
    assert one["summary"] == "Registers a person or an organisation as a customer and gives it a number"
    assert one["x-scope"] == "customer.write"
    headers = {part["name"]: part.get("required", False) for part in one["parameters"] if part["in"] == "header"}
    assert headers == {"Idempotency-Key": True, "Request-Timeout": False}
    customer = document["components"]["schemas"]["customer.v1.Customer"]["properties"]
    assert customer["customer_id"]["readOnly"] is True
    assert customer["birthday"]["x-data-class"] == "PERSONAL"


def test_what_may_not_be_empty_is_required_and_names_of_entries_have_their_rules(document) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["customer.v1.Attribute"]["required"] == ["key", "label", "type"]
    assert schemas["customer.v1.Link"]["required"] == ["type", "id"]
    assert "language_code" not in schemas["customer.v1.Customer"]["required"]
    body = document["paths"]["/v1/customer-imports"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["mapping"]["propertyNames"] == {"minLength": 1, "maxLength": 200}


def test_answers_are_what_the_document_says(document, administrator, registered) -> None:
    customer = registered["customer_id"]
    contact = {"contact": {"channel": "WEB", "direction": "INBOUND", "summary": "asked"}, "topic": "billing"}
    made = administrator.post(
        f"/v1/customers/{customer}/interactions", json=contact, headers={"Idempotency-Key": str(uuid4())}
    )
    key = f"a{uuid4().hex[:8]}"
    attribute = administrator.post(
        "/v1/customer-attributes", json={"key": key, "label": "Plan", "type": "CHOICE", "options": ["a"]},
        headers={"Idempotency-Key": str(uuid4())},
    )  # fmt: skip
    checked = [
        ("post", "/v1/customers/{customer_id}/interactions", "201", made),
        ("post", "/v1/customer-attributes", "201", attribute),
        ("get", "/v1/customers/{customer_id}", "200", administrator.get(f"/v1/customers/{customer}")),
        ("get", "/v1/customers", "200", administrator.get("/v1/customers")),
        ("get", "/v1/customers:search", "200", administrator.get("/v1/customers:search", params={"query": "王芳"})),
        (
            "get",
            "/v1/customers/{customer_id}/interactions",
            "200",
            administrator.get(f"/v1/customers/{customer}/interactions"),
        ),
        ("get", "/v1/customer-attributes", "200", administrator.get("/v1/customer-attributes")),
        ("get", "/v1/analytics/freshness", "200", administrator.get("/v1/analytics/freshness")),
        ("get", "/v1/analytics/summary", "200", administrator.get("/v1/analytics/summary")),
        ("get", "/v1/customers/{customer_id}", "404", administrator.get("/v1/customers/nobody")),
        ("get", "/v1/customers", "400", administrator.get("/v1/customers?kind=ALIEN&page_size=x")),
    ]
    for method, path, status, answer in checked:
        assert str(answer.status_code) == status, answer.text
        validator(document, schema_of(document, method, path, status)).validate(answer.json())


def test_masked_answers_are_what_the_document_says(document, internal, registered) -> None:
    query = {"query": registered["customer_number"]}
    answer = internal.client("ivr").get("/v1/customers:search", params=query).json()
    assert answer["results"]
    validator(document, schema_of(document, "get", "/v1/customers:search", "200")).validate(answer)


def test_what_the_gateway_takes_is_what_the_document_says(document, administrator, wang) -> None:
    schema = document["paths"]["/v1/customers"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    checker = validator(document, schema)
    checker.validate(wang)
    for wrong in (
        {**wang, "names": []},
        {**wang, "kind": "ALIEN"},
        {**wang, "names": [{"full": ""}]},
        {"kind": "PERSON"},
    ):
        assert not checker.is_valid(wrong)
        refused = administrator.post("/v1/customers", json=wrong, headers={"Idempotency-Key": str(uuid4())})
        assert refused.status_code == 400


def test_every_example_shown_to_people_fits_its_schema(document) -> None:
    for content in contents(document):
        if content["schema"].get("format") != "binary":
            shown = docs._value(document, content["schema"], 0)
            errors = validator(document, content["schema"]).iter_errors(shown)
            assert [one.message for one in errors if one.validator == "type"] == []


@pytest.mark.parametrize("name", POLICIES)
def test_the_page_for_people_needs_no_network_and_no_script(request, documents, name: str) -> None:
    answer = request.getfixturevalue(name).with_headers().get("/docs")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", answer.text)
    for _, _, one in operations(documents[name]):
        assert f'id="{one["operationId"]}"' in answer.text
