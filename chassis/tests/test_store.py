"""The store: declared indexes, the concern on the wire, pages that miss and repeat nobody."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from crm.customer.v1 import customer_pb2
from pymongo import monitoring

from chassis import idempotency, inbox, leases, outbox, store, timers, work
from chassis.errors import Invalid, NotFound, Unavailable
from chassis.reads import Reader, beginning, read_token, write_token
from chassis.store import Collection, Index, Store, connect, schema, transact

NOTES = Collection(
    "notes",
    customer_pb2.Attribute,
    "key",
    indexes=(Index("label", unique=True, field="label"), Index("options")),
)
SCHEMA = schema(NOTES)
SEEN: list[tuple[str, dict[str, Any]]] = []


class Listening(monitoring.CommandListener):
    """Keeps every command that is sent."""

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        SEEN.append((event.command_name, dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.fixture
def opened(open_store: Callable[..., Store]) -> Store:
    return open_store(SCHEMA)


def put(opened: Store, *numbers: int) -> None:
    notes = [customer_pb2.Attribute(key=f"k{one}", label=f"{one:04d}", options=[f"tag{one % 3}"]) for one in numbers]
    opened[NOTES.name].insert_many([NOTES.document(one) for one in notes])


def test_hygiene_is_left_to_the_store_and_failed_events_never_go_by_themselves() -> None:
    declared = {**outbox.SCHEMA, **inbox.SCHEMA, **idempotency.SCHEMA, **timers.SCHEMA, **leases.SCHEMA, **work.SCHEMA}
    all_ = [(name, one) for name, indexes in declared.items() for one in indexes if one.expire_seconds]
    days = {(name, one.keys): (one.expire_seconds or 0) / 86400 for name, one in all_}
    assert days == {("outbox", "published"): 7, ("inbox", "handled"): 30, ("requests", "at"): 3}


def test_a_transaction_is_majority_journaled_and_a_snapshot_on_the_wire(opened: Store, mongodb_uri: str) -> None:
    monitoring.register(Listening())
    listened = connect(mongodb_uri, opened.database.name)
    SEEN.clear()
    transact(listened, lambda session: listened["notes"].insert_one({"_id": 1}, session=session))
    sent = {name: command for name, command in SEEN if name in ("insert", "commitTransaction")}
    listened.close()
    assert sent["insert"]["readConcern"]["level"] == "snapshot"
    concern = sent["commitTransaction"]["writeConcern"]
    assert (concern["w"], concern["j"]) == ("majority", True)


def test_a_transaction_that_ran_out_of_time_lets_go_of_what_it_held(opened: Store) -> None:
    put(opened, 1)
    notes = opened[NOTES.name]

    def late(session: Any) -> None:
        notes.update_one({"_id": "k1"}, {"$set": {"label": "late"}}, session=session)
        time.sleep(1.5)
        notes.find_one({"_id": "k1"}, session=session)

    with pytest.raises(Unavailable):
        transact(opened, late, seconds=1)
    # The store itself would keep the lock for ten seconds and more.
    transact(
        opened,
        lambda session: notes.update_one({"_id": "k1"}, {"$set": {"label": "next"}}, session=session),
        seconds=3,
    )
    assert notes.find_one({"_id": "k1"})["label"] == "next"


def test_what_nobody_stored_is_not_found(opened: Store) -> None:
    with pytest.raises(NotFound, match="there is no Attribute 'k1'"):
        Reader(opened).get(NOTES, "k1")


def test_pages_show_each_once_while_others_come_and_go(opened: Store) -> None:
    put(opened, *range(0, 100, 2))
    seen, token, round_ = [], "", 0
    while True:
        notes, token = Reader(opened).page(NOTES, {}, by="label", size=7, token=token)
        seen += [int(one.label) for one in notes]
        if not token:
            break
        put(opened, 101 + 2 * round_, 1 + 2 * round_)  # one behind, one before what was read
        opened[NOTES.name].delete_one({"_id": f"k{seen[0]}"})
        round_ += 1
    assert [one for one in seen if one < 100 and one % 2 == 0] == list(range(0, 100, 2))
    assert seen == sorted(set(seen))


def test_pages_descend_too(opened: Store) -> None:
    put(opened, *range(10))
    first, token = Reader(opened).page(NOTES, {}, by="-label", size=4, token="")
    second, _ = Reader(opened).page(NOTES, {}, by="-label", size=4, token=token)
    assert [one.label for one in (*first, *second)] == [f"{one:04d}" for one in range(9, 1, -1)]


def test_a_token_is_ours_and_belongs_to_its_query(opened: Store) -> None:
    put(opened, *range(10))
    _, token = Reader(opened).page(NOTES, {}, by="label", size=4, token="")
    for other in (token[:-2] + "AA", token[2:], "", "é", "a" * 500):
        with pytest.raises(Invalid, match="page_token"):
            read_token(opened.token_secret, other, "any")
    with pytest.raises(Invalid, match="belongs to another query"):
        Reader(opened).page(NOTES, {"options": "tag1"}, by="label", size=4, token=token)
    assert read_token(b"secret", write_token(b"secret", "x", "q"), "q") == "x"
    with pytest.raises(Invalid):
        read_token(b"other secret", write_token(b"secret", "x", "q"), "q")


def test_a_beginning_is_looked_up_in_the_index(opened: Store) -> None:
    put(opened, *range(9))
    where = beginning(opened, "options", ["tag1"])
    assert opened[NOTES.name].count_documents(where) >= 3
    plan = str(opened[NOTES.name].find(where).explain())
    assert "options_1" in plan
    assert "COLLSCAN" not in plan


def test_a_slow_query_is_told_by_its_shape_without_any_value(
    opened: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mongodb_uri: str
) -> None:
    monkeypatch.setattr(store.connection, "SLOW_SECONDS", 0.0)
    watched = connect(mongodb_uri, opened.database.name)
    watched[NOTES.name].find_one({"options": "a secret name", "label": "x"}, sort=[("label", 1)])
    told = [vars(record) for record in caplog.records if record.message == "slow query"]
    watched.close()
    assert "find notes options,label sort label" in repr(told)
    assert "a secret name" not in repr(told)
