"""Who is calling: a short-lived signed token, minted by the gateway and verified by every service."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from chassis.errors import Denied, Unauthenticated

ISSUER = "guanxi-gateway"
AUDIENCE = "guanxi-services"
LIFETIME = timedelta(seconds=60)
LEEWAY = timedelta(seconds=30)  # by which two clocks may differ


@dataclass(frozen=True)
class Caller:
    """Who acts, through which channel, with which rights.

    `scopes` are the operations allowed, `sees` the data classes shown in clear (numbers of the contract's
    DataClass), `hides` full names of fields that are masked nevertheless.
    """

    subject: str
    channel: str = ""
    roles: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset()
    sees: frozenset[int] = frozenset()
    hides: frozenset[str] = frozenset()

    def require(self, scope: str) -> None:
        """Raises `Denied` unless the caller holds the scope; an operation without a scope is nobody's."""
        if not scope or scope not in self.scopes:
            raise Denied(f"this needs the right {scope or 'that no contract grants'}", reason="MISSING_SCOPE")


def system(service: str) -> Caller:
    """The service itself, for what its worker does on events and timers."""
    return Caller(subject=f"service:{service}", channel="SYSTEM")


@dataclass(frozen=True)
class Signer:
    """The gateway's key and its name."""

    key: Ed25519PrivateKey
    key_id: str

    def mint(self, caller: Caller, now: datetime) -> str:
        """A token for `LIFETIME`."""
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + LIFETIME,
            "sub": caller.subject,
            "channel": caller.channel,
            "roles": list(caller.roles),
            "scopes": sorted(caller.scopes),
            "sees": sorted(caller.sees),
            "hides": sorted(caller.hides),
        }
        return jwt.encode(claims, self.key, algorithm="EdDSA", headers={"kid": self.key_id})


@dataclass(frozen=True)
class Verifier:
    """The public keys a service trusts, by name; two while a key is being rotated."""

    keys: Mapping[str, Ed25519PublicKey]
    remembered: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "remembered", lru_cache(maxsize=4096)(self._decode))

    def verify(self, token: str) -> Caller:
        """The caller a token names; raises `Unauthenticated` when it is forged, foreign or expired."""
        caller, expires = self.remembered(token)
        if expires + LEEWAY.total_seconds() < datetime.now(UTC).timestamp():
            raise Unauthenticated("the caller token has expired", reason="TOKEN_EXPIRED")
        known: Caller = caller
        return known

    def _decode(self, token: str) -> tuple[Caller, float]:
        try:
            key = self.keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key, algorithms=["EdDSA"], audience=AUDIENCE, issuer=ISSUER, leeway=LEEWAY)
            return _caller(claims), float(claims["exp"])
        except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise Unauthenticated("the caller token is not valid", reason="BAD_TOKEN") from error


def _caller(claims: Mapping[str, Any]) -> Caller:
    return Caller(
        subject=claims["sub"],
        channel=claims["channel"],
        roles=tuple(claims["roles"]),
        scopes=frozenset(claims["scopes"]),
        sees=frozenset(claims["sees"]),
        hides=frozenset(claims["hides"]),
    )


def load_signer(text: str) -> Signer:
    """The signer in a private JWK (RFC 8037); raises `ValueError` where it is none."""
    key = _key(text)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("IDENTITY_KEY is not a private Ed25519 key in JWK form")
    return Signer(key, json.loads(text)["kid"])


def load_verifier(jwks: str) -> Verifier:
    """The verifier in a JSON web key set of public keys; raises `ValueError` where it is none."""
    keys = {one["kid"]: _key(one) for one in json.loads(jwks)["keys"]}
    if not keys or not all(isinstance(key, Ed25519PublicKey) for key in keys.values()):
        raise ValueError("IDENTITY_KEYS is not a set of public Ed25519 keys")
    return Verifier({name: key for name, key in keys.items() if isinstance(key, Ed25519PublicKey)})


def _key(given: Any) -> Any:
    try:
        return OKPAlgorithm.from_jwk(given)
    except jwt.PyJWTError as error:
        raise ValueError(f"not an Ed25519 key in JWK form: {error}") from None


def generate(key_id: str) -> tuple[str, str]:
    """A new key pair: the private JWK for the gateway, and the public key set for the services."""
    key = Ed25519PrivateKey.generate()
    private = {**OKPAlgorithm.to_jwk(key, as_dict=True), "kid": key_id}
    public = {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id}
    return json.dumps(private), json.dumps({"keys": [public]})


def write_keys(directory: Path, key_id: str = "k1") -> tuple[Path, Path]:
    """Writes a new key pair below `directory`, the private one readable by its owner only."""
    private, public = generate(key_id)
    paths = directory / "identity-key.json", directory / "identity-keys.json"
    paths[0].touch(mode=0o600)
    paths[0].write_text(private)
    paths[1].write_text(public)
    return paths
