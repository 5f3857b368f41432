"""Compares what clients were told with what is there: the promises of the platform, one function each.

After Jepsen's total-queue and Elle's list-append checkers: every write leaves a mark that can be found again, every
effect is written down by something that is neither idempotent nor blind to order.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from chaos.history import FAILED, OK, Call
from chaos.state import Event, State
from chaos.witness import rings

KINDS = ("lost", "unexpected", "duplicated", "out_of_order", "contradicted")
SHOWN = 5


@dataclass
class Findings:
    """What was wrong, by kind: each entry names the record, event or call."""

    wrong: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: str, what: str) -> None:
        """One broken promise."""
        self.wrong[kind].append(what)

    def count(self, kind: str) -> int:
        """How many of a kind."""
        return len(self.wrong[kind])

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not any(self.wrong.values())

    def lines(self) -> Iterator[str]:
        """A few of each kind, to read."""
        for kind, found in self.wrong.items():
            for one in found[:SHOWN]:
                yield f"{kind}: {one}"
            if len(found) > SHOWN:
                yield f"{kind}: and {len(found) - SHOWN} more"


def check(calls: list[Call], state: State) -> Findings:
    """Every broken promise."""
    findings = Findings()
    for promise in PROMISES:
        promise(calls, state, findings)
    return findings


def every_call_has_its_effect_once(calls: list[Call], state: State, findings: Findings) -> None:
    """Acknowledged: once, as the answer said. Refused: never. Unknown: at most once. And nothing nobody asked for."""
    effects: dict[str, list[Event]] = defaultdict(list)
    for event in state.events:
        if event.marker:
            effects[event.marker].append(event)
    for call in calls:
        found = effects.pop(call.marker, [])
        _judge(call, found, findings)
    for marker, found in effects.items():
        findings.add("unexpected", f"{found[0].type} {found[0].aggregate_id} with the mark {marker} of no call")


def _judge(call: Call, found: list[Event], findings: Findings) -> None:
    who = f"{call.kind} {call.marker}"
    if len(found) > 1:
        findings.add("duplicated", f"{who}: {len(found)} events")
    if call.outcome == OK and not found:
        findings.add("lost", f"{who} was acknowledged and left no event")
    if call.outcome == FAILED and found:
        findings.add("unexpected", f"{who} was refused with {call.status} and took effect")
    told = (call.record, call.version)  # of a row of a file, only that it was taken in
    if call.outcome == OK and found and call.record and (found[0].aggregate_id, found[0].seq) != told:
        findings.add("contradicted", f"{who} was told version {call.version}, its event has number {found[0].seq}")


def the_same_key_gets_the_same_answer(calls: list[Call], _state: State, findings: Findings) -> None:
    """Byte for byte; and no refusal after an acknowledgement."""
    for call in calls:
        if len(set(call.digests)) > 1:
            findings.add("contradicted", f"{call.kind} {call.marker} had {len(set(call.digests))} different answers")
        if call.outcome == "contradicted":
            findings.add("contradicted", f"{call.kind} {call.marker} was acknowledged, then refused: {call.statuses}")


def events_are_numbered_without_gaps(_calls: list[Call], state: State, findings: Findings) -> None:
    """From 1, each number once, all of them published."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for event in state.events:
        numbers[event.aggregate_id].append(event.seq)
        if not event.published:
            findings.add("lost", f"event {event.seq} of {event.aggregate_id} was never published")
    for record, found in numbers.items():
        if len(set(found)) < len(found):
            findings.add("duplicated", f"{record} has two events of one number: {sorted(found)}")
        if set(found) != set(range(1, max(found) + 1)):
            findings.add("lost", f"events of {record} have gaps: {sorted(found)}")


def state_is_what_its_events_tell(_calls: list[Call], state: State, findings: Findings) -> None:
    """Each record is as its last event left it."""
    last: dict[str, Event] = {}
    for event in state.events:
        if event.holds and event.seq > (last[event.aggregate_id].seq if event.aggregate_id in last else 0):
            last[event.aggregate_id] = event
    for record in state.records.keys() - last.keys():
        findings.add("unexpected", f"{record} is there, and no event tells of it")
    for record in last.keys() - state.records.keys():
        findings.add("lost", f"{record} is gone, and its events are there")
    for record in last.keys() & state.records.keys():
        if state.records[record] != last[record].holds:
            findings.add("contradicted", f"{record} is not as its event {last[record].seq} left it")


def every_change_is_audited(_calls: list[Call], state: State, findings: Findings) -> None:
    """One entry for each event."""
    _compare(findings, "audit entry", [(one.aggregate_id, one.seq) for one in state.events], state.audited)


def every_event_is_handled_once_by_each_consumer(_calls: list[Call], state: State, findings: Findings) -> None:
    """In the inbox once; nothing is left waiting."""
    wanted = [one.event_id for one in state.events]
    for consumer, handled in state.handled.items():
        _compare(findings, f"inbox row of {consumer}", wanted, handled)
    for consumer, found in state.parked.items():
        for one in found:
            findings.add("lost", f"{consumer} has parked {one}")


def every_event_takes_effect_once_and_in_order(_calls: list[Call], state: State, findings: Findings) -> None:
    """In the ledger once, at its own place among the events of its record; and the running counts agree."""
    _compare(findings, "effect", [one.event_id for one in state.events], [row[0] for row in state.effects])
    for _event_id, record, seq, place in state.effects:
        if seq != place:
            findings.add("out_of_order", f"event {seq} of {record} took effect as number {place}")
    counts = Counter(one.aggregate_id for one in state.events)
    for record, (count, total) in state.counters.items():
        wanted = counts[record]
        if (count, total) != (wanted, wanted * (wanted + 1) // 2):
            kind = "duplicated" if count > wanted else "lost"
            findings.add(kind, f"the witness counted {count} events of {record} (sum {total}), there are {wanted}")


def every_timer_fires_once(_calls: list[Call], state: State, findings: Findings) -> None:
    """The witness sets one for some new customers."""
    registered = (one.event_id for one in state.events if one.type.endswith(".CustomerRegistered"))
    wanted = [event_id for event_id in registered if rings(event_id)]
    _compare(findings, "timer", wanted, state.rung)


def read_models_are_what_a_rebuild_gives(_calls: list[Call], state: State, findings: Findings) -> None:
    """The facts are the events, and totals counted one by one are those counted anew."""
    if "analytics" not in state.handled:
        return
    _compare(findings, "fact", [one.event_id for one in state.events], state.facts)
    if state.fact_count != len(state.events):
        findings.add("contradicted", f"analytics counted {state.fact_count} facts of {len(state.events)} events")
    for key in state.totals.keys() | state.rebuilt.keys():
        counted, rebuilt = state.totals.get(key, 0), state.rebuilt.get(key, 0)
        if counted != rebuilt:
            findings.add("contradicted", f"total {key} is {counted}; counted anew it is {rebuilt}")


def _compare(findings: Findings, what: str, wanted: Iterable[Hashable], found: Iterable[Hashable]) -> None:
    """Each wanted thing once, and nothing else."""
    missing, there = Counter(wanted), Counter(found)
    for one in missing.keys() - there.keys():
        findings.add("lost", f"no {what} for {one}")
    for one, count in there.items():
        if one not in missing:
            findings.add("unexpected", f"{what} for {one}, which never happened")
        elif count > missing[one]:
            findings.add("duplicated", f"{count} × {what} for {one}")


PROMISES: tuple[Callable[[list[Call], State, Findings], None], ...] = (
    every_call_has_its_effect_once,
    the_same_key_gets_the_same_answer,
    events_are_numbered_without_gaps,
    state_is_what_its_events_tell,
    every_change_is_audited,
    every_event_is_handled_once_by_each_consumer,
    every_event_takes_effect_once_and_in_order,
    every_timer_fires_once,
    read_models_are_what_a_rebuild_gives,
)
