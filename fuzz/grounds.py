"""What callers are recognised with, all real: a gateway's keys in a store, an identity provider's on a socket."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from chassis import identity
from chassis.events import clock
from chassis.identity import Caller, Signer, Verifier
from chassis.store import Store
from gateway import keys, policy
from gateway.callers import Callers, Issuer

AUDIENCE = "guanxi"
KEY_ID = "fuzz"


@dataclass(frozen=True)
class Grounds:
    """Who signs and who recognises; `key` is a client's, `person` the identity provider's private key."""

    signer: Signer
    verifier: Verifier
    callers: Callers
    key: str
    person: Ed25519PrivateKey

    def of_gateway(self, **claims: Any) -> str:
        """A caller's token as the gateway mints it, but for these claims."""
        token = self.signer.mint(Caller("channel:web-shop", roles=("web",), scopes=frozenset({"a"})), clock())
        known = jwt.decode(token, options={"verify_signature": False})
        return jwt.encode(known | claims, self.signer.key, "EdDSA", headers={"kid": self.signer.key_id})

    def of_person(self, **claims: Any) -> str:
        """A person's token as the identity provider gives it, but for these claims."""
        issuer, now = self.callers.issuer, clock()
        known = {"iss": issuer.issuer if issuer else "", "aud": AUDIENCE, "iat": now, "exp": now + timedelta(minutes=5)}
        return jwt.encode(
            known | {"sub": "wang.fang", "roles": ["agent"]} | claims, self.person, "EdDSA", headers={"kid": KEY_ID}
        )


@contextmanager
def laid(store: Store) -> Iterator[Grounds]:
    """Grounds on this store, whose clients get one more."""
    private, public = identity.generate("k1")
    person = Ed25519PrivateKey.generate()
    with _published(person) as url:
        issuer = Issuer(url, AUDIENCE, f"{url}/jwks.json")
        callers = Callers(store, policy.load_policy("internal"), policy.load_roles(), issuer)
        key = keys.create(store, f"fuzz-{uuid4().hex}", kind="channel", roles=["web"])
        yield Grounds(identity.load_signer(private), identity.load_verifier(public), callers, key, person)


@contextmanager
def _published(key: Ed25519PrivateKey) -> Iterator[str]:
    """The URL of a provider with this key."""
    public = {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": KEY_ID, "use": "sig", "alg": "EdDSA"}
    body = json.dumps({"keys": [public]}).encode()

    class Provider(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
