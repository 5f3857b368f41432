"""A short run of each part, and that a part finds what is wrong."""

from pathlib import Path

import pytest
from conftest import OpenStore
from hypothesis import strategies as st

import stack
from fuzz import child, foreign, memory, properties, web
from fuzz.web import Asking, Caller
from gateway.store import SCHEMA

needs_atheris = pytest.mark.skipif(bool(foreign.missing()), reason=foreign.missing())


@needs_atheris
def test_readers_of_foreign_bytes_let_nothing_out_but_what_they_document(tmp_path: Path) -> None:
    part = foreign.fuzz(tmp_path, seed=1, seconds=2, names=["csv", "token"])
    assert part.findings == []
    assert part.inputs > 1000


@needs_atheris
def test_an_input_that_crashes_a_reader_is_kept_and_crashes_it_again(tmp_path: Path) -> None:
    part = foreign.fuzz(tmp_path, seed=1, seconds=1, module="tests.fuzz.planted", names=["crash"])
    (finding,) = part.findings
    assert finding.startswith("crash, seed 1: AssertionError")
    (kept,) = tmp_path.glob("crash-crash-*")
    assert str(kept) in finding
    assert b"boom" in kept.read_bytes()


def test_an_input_is_replayed_by_the_name_of_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"\x07name\n\xff\n")
    foreign.replay("csv", path)


def test_a_reader_that_keeps_what_it_was_given_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "WARM", 10)
    monkeypatch.setattr(child, "LOOK_EVERY", 10)
    monkeypatch.setattr(child, "GROWTH_MEGABYTES", 20)
    kept: list[bytes] = []
    take = child.watched(lambda _data: kept.append(bytes(range(256)) * 4096))

    def use() -> None:
        for _ in range(100):
            take(b"")

    with pytest.raises(child.Growing, match="MB more after"):
        use()


def test_growth_is_told_by_name_and_only_beyond_its_bound() -> None:
    before, after = {"a": 10 * 2**20, "b": 2**20, "gone": 1}, {"a": 70 * 2**20, "b": 2**21}
    assert memory.growth(before, after, megabytes=50) == ["a grew by 60 MB"]


def test_tokens_masks_and_requests_are_taken_or_refused_as_documented(open_store: OpenStore, tmp_path: Path) -> None:
    part = properties.fuzz(open_store(SCHEMA), tmp_path, seed=1, seconds=0)
    assert part.findings == []
    assert part.inputs >= 8 * properties.EXAMPLES / 2


def test_a_property_that_does_not_hold_is_told_with_its_smallest_input() -> None:
    def holds(value: int) -> None:
        assert value < 1000, f"{value} is too much"

    count, wrong = properties.tried((st.integers(), holds), seed=1)
    assert count > 0
    assert "AssertionError: 1000 is too much" in wrong


def test_every_role_asks_at_every_gateway_that_takes_its_kind() -> None:
    asked = {(one.caller.gateway, one.caller.kind, one.caller.role) for one in web.askings()}
    assert {("internal", "staff", "agent"), ("public", "channel", "ivr"), ("partner", "partner", "partner")} <= asked
    assert not any(gateway == "public" and kind == "staff" for gateway, kind, _ in asked)
    assert Caller("internal", "channel", "administrator").masked is False
    assert Caller("public", "channel", "store").masked is True


@pytest.mark.slow
def test_gateways_are_what_their_documents_say(tmp_path: Path) -> None:
    partner, front_end = Caller("partner", "partner", "partner"), Caller("public", "channel", "ivr")
    wanted = [Asking(partner, "any", 1), Asking(front_end, "meant", 1)]
    with stack.running(tmp_path / "platform") as platform:
        part = web.fuzz(platform, tmp_path, seed=1, seconds=6, wanted=wanted)
    assert part.findings == []
    assert part.requests > 50
