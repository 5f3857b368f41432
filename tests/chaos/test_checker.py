"""The checker on histories made by hand: silent where all is well, and naming each promise when it is broken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chaos import checker, history
from chaos.history import FAILED, OK, UNKNOWN, Call, History
from chaos.state import Event, State
from chaos.witness import rings

REGISTERED, UPDATED = "crm.customer.v1.CustomerRegistered", "crm.customer.v1.CustomerUpdated"


def call(number: int, **more: object) -> Call:
    given = {"outcome": OK, "record": f"r{number}", "version": 1, "digests": ["d"], **more}
    return Call(number, "register", f"k{number}", f"m{number}", "c0", 0.0, **given)  # type: ignore[arg-type]


# So that the first event of each record sets a timer.
RINGING = {number: next(f"e{number}-{one}" for one in range(1000) if rings(f"e{number}-{one}")) for number in range(10)}


def event(number: int, seq: int = 1) -> Event:
    marker = f"m{number}" if seq == 1 else f"m{number}-{seq}"
    kind = REGISTERED if seq == 1 else UPDATED
    return Event(
        RINGING[number] if seq == 1 else f"e{number}-{seq}",
        kind,
        f"r{number}",
        seq,
        marker,
        f"{number} at {seq}".encode(),
        published=True,
    )


def world(*events: Event) -> State:
    """A state in which everything happened as it should."""
    last = {one.aggregate_id: one for one in events}
    ids = [one.event_id for one in events]
    return State(
        events=list(events),
        records={key: one.holds for key, one in last.items()},
        audited=[(one.aggregate_id, one.seq) for one in events],
        handled={"witness": list(ids), "analytics": list(ids)},
        parked={"witness": [], "analytics": []},
        effects=[(one.event_id, one.aggregate_id, one.seq, one.seq) for one in events],
        counters={key: (one.seq, one.seq * (one.seq + 1) // 2) for key, one in last.items()},
        rung=[one.event_id for one in events if one.type == REGISTERED and rings(one.event_id)],
        facts=list(ids),
        fact_count=len(ids),
        totals={"day|customers": 2},
        rebuilt={"day|customers": 2},
    )


@pytest.fixture
def calls() -> list[Call]:
    second = call(2, record="r1", version=2)
    second.marker = "m1-2"
    return [call(1), second]


@pytest.fixture
def state() -> State:
    return world(event(1), event(1, 2))


def test_a_world_in_which_all_is_well_has_no_findings(calls: list[Call], state: State) -> None:
    assert checker.check(calls, state).ok


def lose_an_event(_calls: list[Call], state: State) -> None:
    del state.events[1]


def lose_an_effect(_calls: list[Call], state: State) -> None:
    del state.effects[1]


def lose_a_record(_calls: list[Call], state: State) -> None:
    state.records.clear()


def never_publish(_calls: list[Call], state: State) -> None:
    state.events[1] = replace(state.events[1], published=False)


def leave_parked(_calls: list[Call], state: State) -> None:
    state.parked["analytics"].append("e1-2 early")


def handle_nowhere(_calls: list[Call], state: State) -> None:
    state.handled["witness"].pop()


def forget_a_timer(_calls: list[Call], state: State) -> None:
    state.rung.clear()


def count_too_few(_calls: list[Call], state: State) -> None:
    state.counters["r1"] = (1, 1)


def forget_an_audit_entry(_calls: list[Call], state: State) -> None:
    state.audited.pop()


def do_what_was_refused(calls: list[Call], _state: State) -> None:
    calls[0].outcome = FAILED


def do_what_nobody_asked(calls: list[Call], _state: State) -> None:
    del calls[0]


def make_a_record_without_event(_calls: list[Call], state: State) -> None:
    state.records["r9"] = b"from nowhere"


def handle_what_never_was(_calls: list[Call], state: State) -> None:
    state.handled["witness"].append("e9-1")


def do_it_twice(_calls: list[Call], state: State) -> None:
    state.events.append(replace(state.events[0], event_id="e1-3", seq=3))


def number_twice(_calls: list[Call], state: State) -> None:
    state.events.append(replace(state.events[1], event_id="other", marker=""))


def take_effect_twice(_calls: list[Call], state: State) -> None:
    state.effects.append(("e1-2", "r1", 2, 3))


def ring_twice(_calls: list[Call], state: State) -> None:
    state.rung.append(state.rung[0])


def count_too_many(_calls: list[Call], state: State) -> None:
    state.counters["r1"] = (3, 5)


def swap_two_effects(_calls: list[Call], state: State) -> None:
    state.effects[:] = [("e1-1", "r1", 1, 2), ("e1-2", "r1", 2, 1)]


def answer_differently(calls: list[Call], _state: State) -> None:
    calls[0].digests.append("other")


def refuse_afterwards(calls: list[Call], _state: State) -> None:
    calls[0].outcome = "contradicted"


def tell_another_version(calls: list[Call], _state: State) -> None:
    calls[1].version = 1


def keep_another_state(_calls: list[Call], state: State) -> None:
    state.records["r1"] = b"1 at 1"


def count_otherwise_than_a_rebuild(_calls: list[Call], state: State) -> None:
    state.rebuilt["day|customers"] = 3


BREAKS: dict[str, list[Callable[[list[Call], State], None]]] = {
    "lost": [
        lose_an_event, lose_an_effect, lose_a_record, never_publish, leave_parked, handle_nowhere, forget_a_timer,
        count_too_few, forget_an_audit_entry,
    ],
    "unexpected": [do_what_was_refused, do_what_nobody_asked, make_a_record_without_event, handle_what_never_was],
    "duplicated": [do_it_twice, number_twice, take_effect_twice, ring_twice, count_too_many],
    "out_of_order": [swap_two_effects],
    "contradicted": [
        answer_differently, refuse_afterwards, tell_another_version, keep_another_state, count_otherwise_than_a_rebuild,
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "broken"),
    [pytest.param(kind, one, id=one.__name__) for kind, found in BREAKS.items() for one in found],
)
def test_a_broken_promise_is_found(
    kind: str, broken: Callable[[list[Call], State], None], calls: list[Call], state: State
) -> None:
    broken(calls, state)
    findings = checker.check(calls, state)
    assert findings.count(kind) > 0
    assert not findings.ok


@pytest.mark.parametrize("there", [True, False])
def test_what_nobody_knows_may_have_happened_once_or_not(there: bool) -> None:
    asked = [call(1, outcome=UNKNOWN, record="", version=0, digests=[])]
    assert checker.check(asked, world(event(1)) if there else world()).ok


def test_a_refused_call_leaves_nothing() -> None:
    assert checker.check([call(1, outcome=FAILED, record="", version=0, digests=[])], world()).ok


def test_a_history_that_was_cut_off_tells_what_is_unknown(tmp_path: Path) -> None:
    written = History(tmp_path / "history.jsonl")
    done, cut = (written.begin("register", f"k{one}", f"m{one}", "张伟") for one in (1, 2))
    done.outcome = OK
    written.end(done)
    written.close()
    again = {one.key: one for one in history.read(tmp_path / "history.jsonl")}
    assert (again["k1"].outcome, again["k2"].outcome, again["k1"].client) == (OK, UNKNOWN, cut.client)
