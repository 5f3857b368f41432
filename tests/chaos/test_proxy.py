"""The proxy fails the ways it is told to, and lets everything through otherwise."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

import onebox
from chaos.proxy import Network

PATIENCE = 0.7


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that says everything back."""
    with socket.create_server((onebox.HOST, 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield int(server.getsockname()[1])


def _serve(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return  # the test is over
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, suppress(ConnectionError):  # as the proxy is told to
        while piece := connection.recv(65536):
            connection.sendall(piece)


@pytest.fixture
def network(echo: int) -> Iterator[Network]:
    made = Network()
    made.add("link", port=onebox.free_port(), target=(onebox.HOST, echo))
    yield made
    made.close()


def connected(network: Network) -> socket.socket:
    return socket.create_connection((onebox.HOST, network.links["link"].port), timeout=PATIENCE)


def said_back(connection: socket.socket, what: bytes) -> bytes:
    connection.sendall(what)
    found = b""
    while len(found) < len(what):
        found += connection.recv(65536)
    return found


@pytest.mark.parametrize("mode", ["open", "slow", "slice"])
def test_everything_arrives_in_order(network: Network, mode: str) -> None:
    network.turn("link", mode)
    with connected(network) as connection:
        connection.settimeout(10)
        what = bytes(range(256)) * 40
        assert said_back(connection, what) == what


def test_a_cut_resets_what_is_connected_and_whoever_tries(network: Network) -> None:
    with connected(network) as before:
        assert said_back(before, b"here") == b"here"
        network.turn("link", "cut")
        with pytest.raises(ConnectionError):
            said_back(before, b"gone") or before.recv(1) or _closed()
    with pytest.raises(ConnectionError):
        _try(network)
    network.turn("link", "open")
    with connected(network) as again:
        assert said_back(again, b"back") == b"back"


def _try(network: Network) -> None:
    with connected(network) as after:
        said_back(after, b"x")
        after.recv(1) or _closed()


def _closed() -> None:
    raise ConnectionResetError


def test_a_hole_holds_everything_back_and_loses_nothing(network: Network) -> None:
    with connected(network) as connection:
        assert said_back(connection, b"before") == b"before"
        network.turn("link", "hole")
        connection.sendall(b"into the hole")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        network.turn("link", "open")
        connection.settimeout(10)
        assert said_back(connection, b".").startswith(b"into the hole"[:1])
