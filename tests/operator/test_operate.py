"""What an operator can do about events that got stuck, on a real store and broker; every change leaves its reason."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pika
import pytest
from crm.customer.v1 import customer_pb2, events_pb2
from pymongo import UpdateOne

from chassis import broker, idempotency, identity, inbox, outbox, parked, testing, timers, work
from chassis.events import Envelope, clock, seal
from chassis.inbox import Inbox
from chassis.store import Collection, Store
from chassis.work import Work
from operate.__main__ import main

STATES = Collection("states", customer_pb2.Attribute, "key")
SCHEMA = {**inbox.SCHEMA, **outbox.SCHEMA, **work.SCHEMA, **timers.SCHEMA, STATES.name: ()}
REGISTERED = events_pb2.CustomerRegistered.DESCRIPTOR.full_name


class Broken(Exception):
    """What a handler fails with."""


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store(SCHEMA)


class Crm:
    """Runs `crm <area> <verb> <database> …`; returns the rows it prints with --json, and keeps what it said."""

    def __init__(self, database: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._database, self._capsys, self.said = database, capsys, ""

    def __call__(self, area: str, verb: str, *more: str, code: int = 0) -> list[dict[str, Any]]:
        place = () if area == "letters" else (self._database,)
        assert main(["--operator", "li.na", area, verb, *place, *more]) == code
        printed = self._capsys.readouterr()
        self.said = printed.out + printed.err
        return [json.loads(line) for line in printed.out.splitlines()] if "--json" in more else []


@pytest.fixture
def crm(store: Store, mongodb_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Crm:
    monkeypatch.setenv("MONGODB_URI", mongodb_uri)
    return Crm(store.database.name, capsys)


def registered(key: str, seq: int, name: str = "张伟") -> Envelope:
    customer = customer_pb2.Customer(customer_id=key, version=seq, kind=1, names=[customer_pb2.Name(full=name)])
    event = events_pb2.CustomerRegistered(customer=customer)
    return seal(event, seq=seq, source="test", now=clock(), traceparent="")


def box(store: Store, *, fails: Callable[[Any], bool] = lambda _event: False) -> Inbox:
    def handler(work: Work, event: Any) -> None:
        if fails(event.customer):
            raise Broken
        label = (store[STATES.name].find_one({"_id": event.customer.customer_id}, session=work.session) or {}).get(
            "s", ""
        )
        change = {"$set": {"s": f"{label}{event.customer.version},", "name": event.customer.names[0].full}}
        work.write(STATES.name, UpdateOne({"_id": event.customer.customer_id}, change, upsert=True))

    def begin(session: Any, operation: str) -> Work:
        return idempotency.begin(store, session, identity.system("test"), source="test", operation=operation)

    return Inbox(store, {REGISTERED: handler}, begin)


def kill(store: Store, *envelopes: Envelope, bad: int = 2) -> None:
    """Takes events in whose `bad`-th of record `a` is given up."""
    inbox.receive(
        box(store, fails=lambda one: one.customer_id == "a" and one.version == bad), [(one, False) for one in envelopes]
    )
    store[parked.COLLECTION].update_many({"state": "failed"}, {"$set": {"state": "dead"}})


def go_on(store: Store) -> str:
    """Lets the consumer try what is due until nothing is; returns what record `a` saw."""
    while inbox.retry_due(box(store)):
        pass
    return (store[STATES.name].find_one({"_id": "a"}) or {}).get("s", "")


def audited(store: Store) -> list[tuple[str, str, str]]:
    rows = store[work.AUDIT].find({"subject": "operator:li.na"})
    return [(row["operation"], row["reason"], row["changes"][0]["aggregate_id"]) for row in rows]


def test_what_waits_is_listed_with_why_and_where(store: Store, crm: Crm) -> None:
    kill(store, *(registered("a", seq) for seq in (1, 2, 3)), registered("b", 1))
    rows = crm("events", "list", "--json")
    assert [(row["aggregate_id"], row["seq"], row["state"], row["error"]) for row in rows] == [
        ("a", 2, "dead", "Broken"),
        ("a", 3, "early", ""),
    ]
    assert rows[0]["failed_at"].startswith("test_operate.py:")
    crm("events", "list", "--state", "dead")
    assert len(crm.said.splitlines()) == 2


def test_an_event_is_shown_masked_and_in_clear_only_with_an_entry_in_the_audit(store: Store, crm: Crm) -> None:
    bad = registered("a", 2)
    kill(store, registered("a", 1), bad)
    crm("events", "show", bad.event_id)
    assert "张•" in crm.said
    assert "张伟" not in crm.said
    assert audited(store) == []
    crm("events", "show", bad.event_id, "--clear")
    assert "张伟" in crm.said
    assert audited(store) == [("crm events show", "", "a")]


def test_a_dead_event_is_replayed_and_those_that_waited_follow_in_order(store: Store, crm: Crm) -> None:
    bad = registered("a", 2)
    kill(store, registered("a", 1), bad, registered("a", 3))
    crm("events", "replay", bad.event_id, "--reason", "the handler is mended")
    crm("events", "replay", bad.event_id, "--reason", "clicked twice")
    assert go_on(store) == "1,2,3,"
    assert audited(store) == [("crm events replay", "the handler is mended", "a")]
    assert crm("events", "list", "--json") == []


def test_a_filter_replays_what_fits_it_and_nothing_else(store: Store, crm: Crm) -> None:
    for key in "abc":
        inbox.receive(box(store, fails=lambda _one: True), [(registered(key, 1), False)])
    store[parked.COLLECTION].update_many({}, {"$set": {"state": "dead"}})
    crm("events", "replay", "--record", "b", "--type", "CustomerRegistered", "--reason", "b first")
    crm("events", "replay", "--until", "2020-01-01", "--reason", "old ones")
    crm("events", "replay", "--type", "CustomerArchived", "--reason", "others")
    assert {row["aggregate_id"]: row["state"] for row in crm("events", "list", "--json")} == {
        "a": "dead",
        "b": "due",
        "c": "dead",
    }
    crm("events", "replay", "--since", "2020-01-01T08:30", "--reason", "the rest")
    assert {row["state"] for row in crm("events", "list", "--json")} == {"due"}


def test_everything_is_replayed_only_when_that_is_said(store: Store, crm: Crm) -> None:
    kill(store, registered("a", 1), registered("a", 2))
    crm("events", "replay", "--reason", "oops", code=1)
    assert "--all" in crm.said
    assert [row["state"] for row in crm("events", "list", "--json")] == ["dead"]
    crm("events", "replay", "--all", "--reason", "after the release")
    assert go_on(store) == "1,2,"


def test_a_change_without_a_reason_is_refused(store: Store, crm: Crm) -> None:
    with pytest.raises(SystemExit) as exit_:
        crm("events", "replay", "--all")
    assert exit_.value.code == 2


def test_an_event_is_given_another_body_that_its_contract_allows(store: Store, crm: Crm, tmp_path: Path) -> None:
    bad = registered("a", 2, name="bad")
    kill(store, registered("a", 1), bad, registered("a", 3))
    file = tmp_path / "event.json"
    file.write_text(
        json.dumps({"customer": {"customer_id": "a", "version": 2, "kind": "PERSON", "names": [{"full": "王芳"}]}})
    )
    crm("events", "fix", bad.event_id, str(file), "--reason", "the name was broken at its source")
    assert go_on(store) == "1,2,3,"
    assert audited(store) == [("crm events fix", "the name was broken at its source", "a")]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"customer": {"customer_id": "b", "kind": "PERSON", "names": [{"full": "x"}]}}', "customer.customer_id"),
        ('{"customer": {"customer_id": "a", "kind": "DOG"}}', "customer.kind"),
        ('{"customer": {"customer_id": "a", "kind": "PERSON", "names": []}}', "customer.names"),
        ('{"customer": {"customer_id": "a"}, "more": 1}', "more"),
        ("{", "body"),
        ("[]", "object"),
    ],
)
def test_a_body_its_contract_does_not_allow_is_refused(
    store: Store, crm: Crm, tmp_path: Path, body: str, named: str
) -> None:
    bad = registered("a", 2)
    kill(store, registered("a", 1), bad)
    (tmp_path / "event.json").write_text(body)
    crm("events", "fix", bad.event_id, str(tmp_path / "event.json"), "--reason", "try", code=1)
    assert named in crm.said
    assert [row["state"] for row in crm("events", "list", "--json")] == ["dead"]
    assert audited(store) == []


def test_an_event_that_cannot_be_helped_is_left_out_and_the_next_go_on(store: Store, crm: Crm) -> None:
    bad = registered("a", 2)
    kill(store, registered("a", 1), bad, registered("a", 3))
    crm("events", "drop", bad.event_id, "--reason", "of a test system")
    assert go_on(store) == "1,3,"
    assert audited(store) == [("crm events drop", "of a test system", "a")]
    inbox.receive(box(store), [(bad, True)])  # the broker may still send it
    assert go_on(store) == "1,3,"


def test_an_event_is_not_left_out_before_those_it_follows(store: Store, crm: Crm) -> None:
    late = registered("a", 3)
    kill(store, registered("a", 1), registered("a", 2), late)
    store[parked.COLLECTION].update_one({"_id": late.event_id}, {"$set": {"state": "dead"}})
    crm("events", "drop", late.event_id, "--reason", "out of the way", code=1)
    assert "not the next" in crm.said
    assert len(crm("events", "list", "--json")) == 2
    assert audited(store) == []


def test_published_events_are_published_again_and_their_consumers_drop_them(store: Store, crm: Crm) -> None:
    sent = [registered("a", 1), registered("b", 1)]
    store[outbox.COLLECTION].insert_many(outbox.rows(sent))
    assert len(crm("outbox", "list", "--json")) == 2
    store[outbox.COLLECTION].update_many({}, {"$set": {"state": "published", "published": clock()}})
    crm("outbox", "replay", "--type", "CustomerRegistered", "--reason", "no end", code=1)
    crm("outbox", "replay", "--record", "a", "--reason", "a partner lost it")
    assert [row["aggregate_id"] for row in crm("outbox", "list", "--json")] == ["a"]
    again = store[outbox.COLLECTION].find_one({"state": "pending"})
    assert "published" not in again  # or it would expire before it is sent
    crm("outbox", "replay", "--since", f"{datetime.now(UTC):%Y-%m-%d}", "--reason", "all of today")
    assert len(crm("outbox", "list", "--json")) == 2
    assert [reason for _, reason, _ in audited(store)] == ["a partner lost it", "all of today"]


def test_the_audit_lists_what_operators_did(store: Store, crm: Crm) -> None:
    kill(store, registered("a", 1), registered("a", 2))
    crm("events", "replay", "--all", "--reason", "first")
    rows = crm("audit", "list", "--json")
    assert [(row["subject"], row["operation"], row["reason"], row["events"]) for row in rows] == [
        ("operator:li.na", "crm events replay", "first", 1)
    ]


def test_an_unknown_service_and_an_unreachable_store_are_said(
    mongodb_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = Crm("no-such-service", capsys)
    monkeypatch.setenv("MONGODB_URI", mongodb_uri)
    crm("events", "list", code=1)
    assert "no-such-service" in crm.said
    monkeypatch.setenv("MONGODB_URI", f"mongodb://127.0.0.1:{testing.free_port()}/")
    crm("events", "list", code=1)
    assert "did not take this" in crm.said


# --- the broker's dead letters ---------------------------------------------------------------------------------------


@pytest.fixture
def dead(store: Store, amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, int]]]:
    """Two letters that died in this service's queue; tells how many messages each queue holds."""
    monkeypatch.setenv("AMQP_URL", amqp_url)
    queue = broker.queue_name(store.database.name, 3)
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    channel.confirm_delivery()
    broker.declare(channel, store.database.name, [])
    channel.queue_purge(broker.DEAD)
    event = registered("a", 1)
    for number, headers in (("one", event.headers()), ("two", {"x": 1})):
        properties = pika.BasicProperties(message_id=number, headers=headers, delivery_mode=2)
        channel.basic_publish("", queue, event.body if number == "one" else b"?", properties, mandatory=True)
    for taken, (method, _, _) in enumerate(channel.consume(queue), 1):
        channel.basic_reject(method.delivery_tag, requeue=False)
        if taken == 2:
            break
    channel.cancel()

    def counts() -> dict[str, int]:
        names = {"dead": broker.DEAD, "queue": queue}
        return {one: channel.queue_declare(name, passive=True).method.message_count for one, name in names.items()}

    _until(lambda: counts()["dead"] == 2)
    yield counts
    channel.queue_purge(broker.DEAD)
    for number in range(16):
        channel.queue_delete(broker.queue_name(store.database.name, number))
    connection.close()


def _until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_dead_letters_are_listed_and_stay(dead, crm: Crm) -> None:
    for _ in range(3):
        rows = crm("letters", "list", "--json")
        assert [(row["letter"], row["why"], row["type"]) for row in rows] == [
            ("one", "rejected", REGISTERED),
            ("two", "rejected", "(no event of ours)"),
        ]
    _until(lambda: dead() == {"dead": 2, "queue": 0})


def test_one_dead_letter_goes_back_to_its_queue_and_another_is_thrown_away(dead, crm: Crm, store: Store) -> None:
    crm("letters", "replay", "--type", "CustomerRegistered", "--reason", "mended")
    _until(lambda: dead() == {"dead": 1, "queue": 1})
    crm("letters", "drop", "two", "--reason", "rubbish")
    _until(lambda: dead() == {"dead": 0, "queue": 1})
    rows = store[work.AUDIT].find({"subject": "operator:li.na"})
    assert [(row["operation"], row["reason"]) for row in rows] == [
        ("crm letters replay", "mended"),
        ("crm letters drop", "rubbish"),
    ]
