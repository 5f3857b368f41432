"""Real servers for all tests: one store and one broker a run, started when first asked for."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import onebox
from chassis import testing
from chassis.store import Schema, Store

OpenStore = Callable[[Schema], Store]


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    """Where the servers of this run keep their data and logs."""
    with tempfile.TemporaryDirectory(prefix="guanxi-test-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def mongodb_uri(servers_directory: Path) -> Iterator[str]:
    """A running store: MONGODB_URI, or one of this run's own."""
    store = onebox.start_store(servers_directory / "store")
    yield store.uri
    store.stop()


@pytest.fixture(scope="session")
def amqp_url(servers_directory: Path) -> Iterator[str]:
    """A running broker: AMQP_URL, or one of this run's own."""
    broker = onebox.start_broker(servers_directory / "broker")
    yield broker.uri
    broker.stop()


@pytest.fixture
def open_store(mongodb_uri: str) -> Iterator[OpenStore]:
    """Opens stores with an empty database each; dropped after the test."""
    with ExitStack() as stack:
        yield lambda schema: stack.enter_context(testing.opened(mongodb_uri, schema))
