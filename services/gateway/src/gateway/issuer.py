"""An identity provider for development: gives anybody a token with any role. Never for production.

`python -m gateway.issuer serve`, then `POST /token {"subject": "wang.fang", "roles": ["agent"]}`.
"""

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flask import Flask, Response, request
from jwt.algorithms import OKPAlgorithm
from werkzeug.serving import make_server

from chassis import codec, config, errors
from chassis.codec.scalars import Mistake
from chassis.events import clock
from gateway import problems

LIFETIME = timedelta(minutes=15)
KEY_ID = "development"


@dataclass(frozen=True)
class IssuerSettings:
    """`url` is the issuer's name in its tokens; it listens on this machine only."""

    port: int = 8090
    url: str = "http://127.0.0.1:8090"
    audience: str = "guanxi"


def create_app(settings: IssuerSettings) -> Flask:
    """The provider, with a key that lasts as long as the process."""
    app, key = Flask("issuer", static_folder=None), Ed25519PrivateKey.generate()
    public = {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": KEY_ID, "use": "sig", "alg": "EdDSA"}
    discovery = {"issuer": settings.url, "jwks_uri": f"{settings.url}/jwks.json"}
    app.register_error_handler(errors.Fault, problems.of_fault)
    app.add_url_rule("/.well-known/openid-configuration", "discovery", lambda: _json(discovery))
    app.add_url_rule("/jwks.json", "keys", lambda: _json({"keys": [public]}))
    app.add_url_rule("/readyz", "ready", lambda: _json({"problems": []}))
    app.add_url_rule("/token", "token", lambda: _token(settings, key), methods=["POST"])
    return app


def _json(value: Any) -> Response:
    return Response(json.dumps(value), content_type="application/json")


def _token(settings: IssuerSettings, key: Ed25519PrivateKey) -> Response:
    subject, roles = _asked_for(request.get_json(silent=True))
    now = clock()
    claims = {"iss": settings.url, "aud": settings.audience, "iat": now, "exp": now + LIFETIME, "sub": subject}
    token = jwt.encode(claims | {"roles": roles}, key, algorithm="EdDSA", headers={"kid": KEY_ID})
    return _json({"access_token": token, "token_type": "Bearer", "expires_in": int(LIFETIME.total_seconds())})


def _asked_for(given: Any) -> tuple[str, list[str]]:
    try:
        subject, roles = given["subject"], given["roles"]
        if not isinstance(roles, list):
            raise TypeError
        return codec.scalars.string(subject), [codec.scalars.string(one) for one in roles]
    except (KeyError, TypeError, Mistake):
        raise errors.invalid("", 'the body must be {"subject": "…", "roles": ["…"]}') from None


def main() -> None:
    """The command line."""
    (settings,) = config.load_or_exit(IssuerSettings)
    make_server("127.0.0.1", settings.port, create_app(settings), threaded=True).serve_forever()


if __name__ == "__main__":
    main()
