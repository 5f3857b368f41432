"""Makes every secret that a cluster needs, all new: `python -m make_secrets <folder>`.

A folder a Kubernetes Secret, a file a key, as k8s/overlays/local takes them in. A folder that is there is left alone,
since a store and a broker go on with the passwords they were started with.
"""

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from chassis import identity

STORE = ",".join(f"mongodb-{number}.mongodb:27017" for number in range(3))
BROKER = "rabbitmq:5672"
BROKER_USER = "guanxi"
SERVICES = ("customer", "analytics")


def password() -> str:
    """A password that needs no quoting anywhere."""
    return secrets.token_hex(24)


def store_uri(user: str) -> str:
    """Where the store is, for a user of its own who has a new password."""
    return f"mongodb://{user}:{password()}@{STORE}/?replicaSet=rs0&authSource=admin"


def make() -> dict[str, dict[str, str]]:
    """Every Secret with its keys."""
    private, public = identity.generate("k1")
    broker = password()
    service = {"amqp-url": f"amqp://{BROKER_USER}:{broker}@{BROKER}/%2F", "identity-keys": public}
    found = {one: service | {"mongodb-uri": store_uri(one), "token-secret": secrets.token_hex(32)} for one in SERVICES}
    return found | {
        "gateway": {"mongodb-uri": store_uri("gateway"), "identity-key": private},
        "mongodb": {"root-password": password(), "keyfile": secrets.token_hex(256)},
        "rabbitmq": {
            "user.conf": f"default_user = {BROKER_USER}\ndefault_pass = {broker}\n",
            "erlang-cookie": password(),
        },
    }


def write(folder: Path, made: Mapping[str, Mapping[str, str]]) -> None:
    """Writes them below a new folder, readable by their owner only; raises `FileExistsError` where there is one."""
    folder.mkdir(parents=True, mode=0o700)
    for name, keys in made.items():
        (folder / name).mkdir()
        for key, value in keys.items():
            path = folder / name / key
            path.touch(mode=0o600)
            path.write_text(value, encoding="utf-8")


def main() -> None:
    """The command line."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m make_secrets <folder>")
    try:
        write(Path(sys.argv[1]), make())
    except FileExistsError:
        print(f"{sys.argv[1]} is there and left as it is")


if __name__ == "__main__":
    main()
