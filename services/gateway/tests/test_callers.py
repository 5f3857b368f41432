"""Who is let in: keys, and the tokens of our people."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from flask import Flask, jsonify
from jwt.algorithms import OKPAlgorithm

from chassis import testing
from chassis.errors import Conflict, Unauthenticated
from gateway import callers, keys
from gateway.app import create_app
from gateway.callers import Issuer
from gateway.store import CLIENTS

PATH = "/v1/customers:search?query=x"
Claims = dict[str, Any]


def client_of(gateway, client_id: str) -> tuple[httpx.Client, str]:
    key = keys.create(gateway.store, client_id, kind="channel", roles=["web"])
    return gateway.with_headers(**{"X-Api-Key": key}), key


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_not_kept_in_any_form_it_could_be_used_in(internal) -> None:
    client, key = client_of(internal, "kept")
    assert client.get(PATH).status_code == 200
    stored = str(internal.store[CLIENTS].find_one({"_id": "kept"}))
    assert key not in stored
    assert key.rpartition("_")[2] not in stored
    assert "kept" in stored


def test_a_client_has_one_first_key(internal) -> None:
    keys.create(internal.store, "once", kind="channel", roles=["web"])
    with pytest.raises(Conflict):
        keys.create(internal.store, "once", kind="partner", roles=["administrator"])


def test_two_keys_live_while_one_is_replaced_and_the_old_one_ends(internal) -> None:
    _, first = client_of(internal, "rotated")
    second = keys.rotate(internal.store, "rotated")
    now = datetime.now(UTC)
    assert [keys.authenticate(internal.store, key, now).client_id for key in (first, second)] == ["rotated"] * 2
    later = now + keys.OVERLAP + timedelta(seconds=1)
    assert keys.authenticate(internal.store, second, later).client_id == "rotated"
    with pytest.raises(Unauthenticated):
        keys.authenticate(internal.store, first, later)


def test_a_third_key_ends_the_first_at_once(internal) -> None:
    _, first = client_of(internal, "thrice")
    second, third = keys.rotate(internal.store, "thrice"), keys.rotate(internal.store, "thrice")
    now = datetime.now(UTC)
    with pytest.raises(Unauthenticated):
        keys.authenticate(internal.store, first, now)
    assert keys.authenticate(internal.store, second, now).roles == keys.authenticate(internal.store, third, now).roles


def test_a_disabled_client_is_refused_when_its_key_is_forgotten(stack, monkeypatch) -> None:
    gateway = stack.gateway()
    client, _ = client_of(gateway, "disabled")
    assert client.get(PATH).status_code == 200
    keys.disable(gateway.store, "disabled")
    now = callers.monotonic()
    monkeypatch.setattr(callers, "monotonic", lambda: now + callers.KEY_SECONDS + 0.1)
    assert client.get(PATH).status_code == 401
    keys.disable(gateway.store, "disabled", disabled=False)
    assert client.get(PATH).status_code == 200


def test_every_wrong_key_is_refused_with_the_same_words(internal) -> None:
    _, good = client_of(internal, "guessed")
    mark, prefix, secret = good.split("_", 2)
    keys.disable(internal.store, "guessed")
    wrong = [good, "x", "gx", "gx__", f"{mark}_{prefix}_", f"{mark}_{prefix}_{secret[:-1]}"]
    wrong += [f"{mark}_0000000000_{secret}", f"ab_{prefix}_{secret}", '{"$gt": ""}', "gx_$ne_x", "clé"]
    answers = [internal.with_headers(**{"X-Api-Key": key.encode("latin-1")}).get(PATH) for key in wrong]
    seen = {(one.status_code, one.json()["type"], one.json()["detail"]) for one in answers}
    assert seen == {(401, "urn:guanxi:problem:bad-key", "this key is not valid")}


def test_a_key_is_not_repeated_in_any_answer(internal) -> None:
    client, key = client_of(internal, "echoed")
    answers = [client.get(PATH), client.get("/v1/nowhere"), client.get("/v1/customers?kind=ALIEN")]
    assert not any(key in one.text + str(one.headers) for one in answers)


# --- tokens ----------------------------------------------------------------------------------------------------------


def token_of(stack, **asked: Any) -> str:
    body = {"subject": "wang.fang", "roles": ["agent"], **asked}
    answer = httpx.post(f"{stack.provider.issuer}/token", json=body, trust_env=False)
    return str(answer.json()["access_token"])


def status_with(gateway, token: str) -> int:
    return gateway.with_headers(Authorization=f"Bearer {token}").get(PATH).status_code


def test_our_people_come_in_with_a_token_of_their_provider(stack, internal) -> None:
    assert status_with(internal, token_of(stack)) == 200
    assert status_with(internal, token_of(stack, roles=["analyst"])) == 403
    assert status_with(internal, token_of(stack, roles=[])) == 403
    assert status_with(internal, token_of(stack, roles=["nobody-knows-this"])) == 403


def test_the_public_gateway_takes_no_tokens(stack, public) -> None:
    assert status_with(public, token_of(stack)) == 401


@pytest.mark.parametrize(
    "body", [None, {}, {"subject": "a"}, {"subject": 1, "roles": []}, {"subject": "a", "roles": "agent"}]
)
def test_the_development_provider_says_what_it_wants(stack, body) -> None:
    answer = httpx.post(f"{stack.provider.issuer}/token", json=body, trust_env=False)
    assert answer.status_code == 400


@pytest.fixture(scope="module")
def own_provider(stack):
    """A provider whose keys the test holds: its `Issuer`, and a function that signs any claims."""
    key = ed25519.Ed25519PrivateKey.generate()
    jwk = {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "k1", "use": "sig", "alg": "EdDSA"}
    app = Flask("provider")
    shared = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0" * 8, "alg": "HS256"}
    app.add_url_rule("/jwks.json", "keys", lambda: jsonify({"keys": [jwk, shared]}))
    app.add_url_rule("/nonsense", "nonsense", lambda: "<html>")
    url = stack.serve(app)
    return Issuer(url, "guanxi", f"{url}/jwks.json"), key, jwk


def claims(issuer: Issuer, **changes: Any) -> Claims:
    now = datetime.now(UTC)
    good = {"iss": issuer.issuer, "aud": issuer.audience, "iat": now, "exp": now + timedelta(minutes=5), "sub": "u1"}
    found = {**good, "roles": ["agent"], **changes}
    return {name: value for name, value in found.items() if value is not None}


def test_a_good_token_names_its_person(own_provider) -> None:
    issuer, key, _ = own_provider
    token = jwt.encode(claims(issuer), key, algorithm="EdDSA", headers={"kid": "k1"})
    assert issuer.verify(token)["sub"] == "u1"


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    "changes",
    [{"exp": NOW - timedelta(minutes=1), "iat": NOW - timedelta(minutes=5)}, {"aud": "somebody-else"}, {"aud": None},
     {"iss": "https://evil.example"}, {"iss": None}, {"sub": None}, {"exp": None}, {"iat": None}, {"sub": 7},
     {"exp": NOW + timedelta(hours=1)}, {"exp": "never"}, {"iat": "once"}, {"exp": 1e300},
     {"nbf": NOW + timedelta(hours=1)}, {"iat": NOW + timedelta(hours=1), "exp": NOW + timedelta(hours=1, minutes=1)}],
)  # fmt: skip
def test_a_token_with_a_wrong_claim_is_refused(own_provider, changes: Claims) -> None:
    issuer, key, _ = own_provider
    token = jwt.encode(claims(issuer, **changes), key, algorithm="EdDSA", headers={"kid": "k1"})
    with pytest.raises(Unauthenticated):
        issuer.verify(token)


@pytest.mark.parametrize("changes", [{"exp": timedelta(seconds=-10)}, {"iat": timedelta(seconds=10)}])
def test_the_clock_of_a_provider_may_differ_by_some_seconds(own_provider, changes: dict[str, timedelta]) -> None:
    issuer, key, _ = own_provider
    moved = {name: datetime.now(UTC) + by for name, by in changes.items()}
    token = jwt.encode(claims(issuer, **moved), key, algorithm="EdDSA", headers={"kid": "k1"})
    assert issuer.verify(token)["sub"] == "u1"


def forgeries(issuer: Issuer, jwk: dict[str, Any]) -> dict[str, Callable[[], str]]:
    good, stranger = claims(issuer), ed25519.Ed25519PrivateKey.generate()
    secret = jwk["x"] + "=" * 32
    rs = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {
        "none": lambda: jwt.encode(good, None, algorithm="none", headers={"kid": "k1"}),
        "public key as secret": lambda: jwt.encode(good, secret, algorithm="HS256", headers={"kid": "k1"}),
        "another key": lambda: jwt.encode(good, stranger, algorithm="EdDSA", headers={"kid": "k1"}),
        "another algorithm": lambda: jwt.encode(good, rs, algorithm="RS256", headers={"kid": "k1"}),
        "unknown kid": lambda: jwt.encode(good, stranger, algorithm="EdDSA", headers={"kid": "k2"}),
        "no kid": lambda: jwt.encode(good, stranger, algorithm="EdDSA"),
        "own key inside": lambda: jwt.encode(good, stranger, algorithm="EdDSA", headers={"kid": "k1", "jwk": jwk}),
        "shared secret": lambda: jwt.encode(good, b"secret" * 8, algorithm="HS256", headers={"kid": "shared"}),
        "no token": lambda: "abc",
        "odd token": lambda: "a.b.c",
        "empty parts": lambda: "..",
    }


@pytest.mark.parametrize("how", list(forgeries(Issuer("a", "b", "c"), {"x": "y"})))
def test_a_forged_token_is_refused(stack, own_provider, how: str) -> None:
    issuer, _, jwk = own_provider
    with pytest.raises(Unauthenticated):
        issuer.verify(forgeries(issuer, jwk)[how]())


def test_over_http_a_bad_token_is_a_401(stack, own_provider, internal) -> None:
    issuer, key, _ = own_provider
    foreign = jwt.encode(claims(issuer), key, algorithm="EdDSA", headers={"kid": "k1"})
    assert [status_with(internal, token) for token in (foreign, "a.b.c", "x", token_of(stack)[:-3])] == [401] * 4
    assert internal.with_headers(Authorization="Basic eDp5").get(PATH).status_code == 401
    assert internal.with_headers(Authorization="Bearer").get(PATH).status_code == 401


@pytest.mark.parametrize("jwks", ["http://127.0.0.1:{port}/jwks.json", "{url}/nonsense", "{url}/nowhere"])
def test_while_the_provider_gives_no_keys_our_people_are_asked_to_come_back(stack, own_provider, jwks: str) -> None:
    given, key, _ = own_provider
    address = jwks.format(port=testing.free_port(), url=given.issuer)
    gateway = stack.gateway()
    down = replace(gateway.door, callers=replace(gateway.door.callers, issuer=Issuer(given.issuer, "guanxi", address)))
    token = jwt.encode(claims(given), key, algorithm="EdDSA", headers={"kid": "k1"})
    without = replace(gateway, url=stack.serve(create_app(down)))
    answers = [without.with_headers(Authorization=f"Bearer {token}").get(PATH) for _ in range(2)]
    assert [(one.status_code, one.headers["Retry-After"]) for one in answers] == [(503, "5")] * 2
    assert "127.0.0.1" not in answers[0].text
    assert client_of(without, f"beside-{address}")[0].get(PATH).status_code == 200
