"""Connections that must have moved on by an instant, on real sockets."""

import socket
from collections.abc import Iterator

import pytest

from gateway.pace import LOOK_SECONDS, Pace

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def pace() -> Pace:
    made = Pace()
    made.watch()
    return made


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(3 * LOOK_SECONDS)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_who_has_not_moved_on_is_cut_off(pace: Pace, ends: Ends) -> None:
    ours, theirs = ends
    pace.allow(ours, 0.1)
    assert theirs.recv(1) == b""
    assert ours.recv(1) == b""


def test_who_is_given_more_time_or_waits_for_us_is_not(pace: Pace, ends: Ends) -> None:
    ours, theirs = ends
    pace.allow(ours, 0.1)
    pace.allow(ours, 60)
    with pytest.raises(TimeoutError):
        theirs.recv(1)
    pace.allow(ours, 0.1)
    pace.rest(ours)
    with pytest.raises(TimeoutError):
        theirs.recv(1)


def test_a_connection_that_went_by_itself_disturbs_nobody(pace: Pace, ends: Ends) -> None:
    ours, theirs = ends
    gone, _ = socket.socketpair()
    pace.allow(gone, 0.1)
    gone.close()
    pace.allow(ours, 0.2)
    assert theirs.recv(1) == b""
    pace.allow(None, 1)
    pace.rest(None)
