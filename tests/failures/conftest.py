"""A proxy in front of what can fail, and processes that stand for a service."""

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

import onebox
from chaos.proxy import Network

Behind = Callable[[str, str], str]


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.fixture
def behind(network: Network) -> Behind:
    """The URI of a server behind a link of this name."""

    def link(name: str, uri: str) -> str:
        found = urlsplit(uri)
        port = onebox.free_port()
        network.add(name, port=port, target=(found.hostname or "", found.port or 0))
        who, at, _ = found.netloc.rpartition("@")
        moved = found._replace(netloc=f"{who}{at}127.0.0.1:{port}")
        # Directly, or the driver would ask the store for its own address and go there.
        return (moved._replace(query="directConnection=true") if found.scheme == "mongodb" else moved).geturl()

    return link
