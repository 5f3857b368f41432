"""Wires and runs a gateway: `python -m gateway migrate|serve`, `… keys` for clients, `… identity` for its own key."""

import argparse
import json
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask
from pymongo.errors import PyMongoError

from chassis import config, contract, http, identity, log, migrations, store, trace
from chassis.errors import Fault
from chassis.store import Store
from gateway import keys, policy, server, worker
from gateway.app import Door, create_app
from gateway.callers import Callers, Issuer
from gateway.quota import Quotas
from gateway.settings import GatewaySettings, address_setting, addresses
from gateway.store import SCHEMA
from gateway.upstreams import connect, most_threads

DATABASE = "gateway"


def make_app(settings: GatewaySettings, where: Any) -> Flask:
    """Everything of a gateway process, ready to serve."""
    opened = _opened(settings)
    store.verify(opened, SCHEMA)
    rules = policy.load_policy(settings.policy)
    callers = Callers(opened, rules, policy.load_roles(settings.access_file), _issuer(settings))
    known = {one: getattr(where, address_setting(one)) for one in contract.upstreams()}
    door = Door(
        policy=rules,
        callers=callers,
        quotas=Quotas(opened),
        upstreams=connect(known, concurrency=rules.concurrency),
        signer=identity.load_signer(settings.identity_key),
    )
    http.serve(settings.http_port, partial(_problems, opened))
    log.info("started", policy=rules.name, port=settings.port)
    return create_app(door)


def _problems(opened: Store) -> list[str]:
    stopping = ["stopping"] if worker.STOPPING.is_set() else []
    return stopping if store.reachable(opened) else [*stopping, "store"]


def _issuer(settings: GatewaySettings) -> Issuer | None:
    if not settings.oidc_issuer:
        return None
    return Issuer(settings.oidc_issuer, settings.oidc_audience, settings.oidc_jwks_uri)


def _opened(settings: GatewaySettings) -> Store:
    return store.connect(settings.mongodb_uri, DATABASE, schema=SCHEMA)


def serve(settings: GatewaySettings, where: Any) -> None:
    """Serves until told to stop; wrong settings are listed and end the process with exit code 2."""
    _check(settings)
    server.run(settings, lambda: make_app(settings, where))


def _check(settings: GatewaySettings) -> None:
    checks: dict[str, Callable[[], object]] = {
        "IDENTITY_KEY": lambda: identity.load_signer(settings.identity_key),
        "POLICY": lambda: _check_policy(settings),
        "ACCESS_FILE": lambda: policy.load_roles(settings.access_file),
        "OIDC_JWKS_URI": lambda: _check_issuer(settings),
    }
    config.check_or_exit(checks)


def _check_policy(settings: GatewaySettings) -> None:
    taken = most_threads(policy.load_policy(settings.policy).concurrency)
    if settings.threads <= taken:
        raise ValueError(f"a slow service may hold {taken} threads of {settings.threads}: THREADS must be more")


def _check_issuer(settings: GatewaySettings) -> None:
    if bool(settings.oidc_issuer) != bool(settings.oidc_jwks_uri):
        raise ValueError("OIDC_ISSUER and OIDC_JWKS_URI are given both or neither")


def migrate(settings: GatewaySettings) -> None:
    """Prepares the gateway's database."""
    log.info("migrated", created=", ".join(migrations.migrate(_opened(settings), SCHEMA)))


def manage_keys(settings: GatewaySettings, given: argparse.Namespace) -> None:
    """Makes, replaces and disables keys; a new key is printed once, alone on its line."""
    if given.action == "create":
        _check_grant(settings, given)
    opened = _opened(settings)
    if given.action == "create":
        quota = json.loads(given.quota) if given.quota else None
        print(keys.create(opened, given.client, kind=given.kind, roles=given.role, quota=quota))
    elif given.action == "rotate":
        print(keys.rotate(opened, given.client))
    else:
        keys.disable(opened, given.client, disabled=given.action == "disable")
        print(f"{given.client} is {given.action}d")


def _check_grant(settings: GatewaySettings, given: argparse.Namespace) -> None:
    """Ends with exit code 2 where the grant makes no sense, listing everything that is wrong with it."""
    config.check_or_exit(
        {
            "--role": lambda: _check_roles(given.role, policy.load_roles(settings.access_file)),
            "--quota": lambda: given.quota and policy.Quota(**json.loads(given.quota)),
        }
    )


def _check_roles(wanted: list[str], known: Collection[str]) -> None:
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        raise ValueError(f"no such role: {', '.join(unknown) or '(none given)'}; there are {', '.join(sorted(known))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    roles = parser.add_subparsers(dest="command", required=True)
    roles.add_parser("migrate", help="prepare the database")
    roles.add_parser("serve", help="serve HTTP")
    made = roles.add_parser("identity", help="make the key pair that signs caller tokens")
    made.add_argument("directory", type=Path)
    managed = roles.add_parser("keys", help="make, replace or disable the key of a client")
    managed.add_argument("action", choices=("create", "rotate", "disable", "enable"))
    managed.add_argument("client", help="name of the channel or partner, such as web-shop")
    managed.add_argument("--kind", choices=("channel", "partner"), default="channel")
    managed.add_argument("--role", action="append", default=[], help="a role of access.yaml; may be given again")
    managed.add_argument("--quota", help='a quota of its own: {"requests": 100, "seconds": 10}')
    return parser.parse_args()


def main() -> None:
    """The command line."""
    given = _arguments()
    if given.command == "identity":
        print(*identity.write_keys(given.directory), sep="\n")
        return
    settings, where = config.load_or_exit(GatewaySettings, addresses())
    log.configure("gateway", settings.log_level)
    trace.configure("gateway", endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio)
    try:
        if given.command == "serve":
            serve(settings, where)
        elif given.command == "migrate":
            migrate(settings)
        else:
            manage_keys(settings, given)
    except PyMongoError as error:
        print(store.unavailable(error).message, file=sys.stderr)
        raise SystemExit(1) from None
    except Fault as fault:
        print(fault.message, file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
