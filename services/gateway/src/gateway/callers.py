"""Who sent a request: a channel or partner by its key, our people by the token of their identity provider."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from time import monotonic
from typing import Any

import jwt
from flask import Request

from chassis import identity
from chassis.errors import Denied, Unauthenticated, Unavailable
from chassis.events import clock
from chassis.identity import Caller
from chassis.store import Document, Store
from gateway import keys
from gateway.keys import Client
from gateway.policy import Policy, Role, caller
from gateway.store import Patience

ALGORITHMS = ["RS256", "ES256", "EdDSA"]
JWKS_SECONDS = 300
JWKS_TIMEOUT_SECONDS = 3
OUTAGE_SECONDS = 5.0
KEY_SECONDS = 5.0
KEY_HEADER = "X-Api-Key"
LONGEST_TOKEN_SECONDS = 15 * 60


@dataclass
class _Outage:
    until: float = 0.0


@dataclass(frozen=True)
class Issuer:
    """The identity provider of our people. `jwks_uri` serves its public keys; `audience` is this platform."""

    issuer: str
    audience: str
    jwks_uri: str

    _outage: _Outage = field(default_factory=_Outage)

    @cached_property
    def _keys(self) -> jwt.PyJWKClient:
        return jwt.PyJWKClient(self.jwks_uri, lifespan=JWKS_SECONDS, timeout=JWKS_TIMEOUT_SECONDS)

    def verify(self, token: str) -> dict[str, Any]:
        """The token's claims; raises `Unauthenticated`, or `Unavailable` while the provider's keys cannot be read."""
        try:
            name = str(jwt.get_unverified_header(token)["kid"])
        except (jwt.PyJWTError, KeyError, ValueError) as error:
            raise _not_valid() from error
        key = self._key(name)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self.audience,
                issuer=self.issuer,
                leeway=identity.LEEWAY,
                options={"require": ["exp", "iat", "sub"]},
            )
            lifetime = int(claims["exp"]) - int(claims["iat"])
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise _not_valid() from error
        if lifetime > LONGEST_TOKEN_SECONDS:
            raise Unauthenticated("this token lives longer than 15 minutes", reason="BAD_TOKEN")
        return claims

    def _key(self, name: str) -> jwt.PyJWK:
        # While the provider is down, only one request in some seconds waits to see whether it is back.
        if self._outage.until > monotonic():
            raise _no_answer()
        try:
            return self._keys.get_signing_key(name)
        except (jwt.PyJWKClientConnectionError, jwt.PyJWKSetError, OSError, ValueError) as error:
            self._outage.until = monotonic() + OUTAGE_SECONDS
            raise _no_answer() from error
        except jwt.PyJWTError as error:
            raise _not_valid() from error


def _not_valid() -> Unauthenticated:
    return Unauthenticated("this token is not valid", reason="BAD_TOKEN")


def _no_answer() -> Unavailable:
    return Unavailable("the identity provider does not answer", retry_after=OUTAGE_SECONDS)


@dataclass(frozen=True)
class Callers:
    """Recognises callers. Keys are remembered for `KEY_SECONDS`, so a key refused here is refused everywhere then."""

    store: Store
    policy: Policy
    roles: dict[str, Role]
    issuer: Issuer | None
    _known: dict[str, tuple[float, Client]] = field(default_factory=dict)
    _patience: Patience = field(default_factory=Patience)
    _lock: Lock = field(default_factory=Lock)

    def of(self, request: Request) -> tuple[Caller, Document | None]:
        """The caller and its own quota, if it has one; raises `Unauthenticated` or `Denied`."""
        found, quota = self._of(request)
        return replace(found, sees=found.sees & self.policy.sees), quota

    def _of(self, request: Request) -> tuple[Caller, Document | None]:
        key = request.headers.get(KEY_HEADER, "")
        if key:
            return self._client(key)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token and self.issuer is not None and "staff" in self.policy.authentication:
            return self._person(self.issuer.verify(token.strip())), None
        raise Unauthenticated("send an API key or a bearer token", reason="NO_CREDENTIALS")

    def _person(self, claims: dict[str, Any]) -> Caller:
        held = claims.get("roles", [])
        names = [one for one in held if isinstance(one, str)] if isinstance(held, list) else []
        return caller(f"staff:{claims['sub']}", names, self.roles)

    def _client(self, key: str) -> tuple[Caller, Document | None]:
        client = self._remembered(key)
        if client.kind not in self.policy.authentication:
            raise Denied("this gateway is not for keys of this kind", reason="WRONG_GATEWAY")
        return caller(f"{client.kind}:{client.client_id}", client.roles, self.roles), client.quota

    def _remembered(self, key: str) -> Client:
        with self._lock:
            until, client = self._known.get(key, (0.0, None))
        if client is not None and until > monotonic():
            return client
        with self._patience.waiting():
            client = keys.authenticate(self.store, key, clock())
        with self._lock:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = (monotonic() + KEY_SECONDS, client)
        return client
