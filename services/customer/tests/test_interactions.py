"""The timeline: a later contact on another channel continues what is open."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from crm.customer.v1 import customer_pb2
from crm.options.v1 import options_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from chassis import testing, timers
from chassis.errors import Conflict, Invalid, NotFound
from chassis.events import clock
from chassis.reads import Reader
from chassis.store import Store
from chassis.testing import Client
from chassis.work import Work
from customer import subscribers
from customer.rules import interactions as rules
from customer.store import INTERACTIONS
from customer.timers import TIMERS

Register = Callable[..., customer_pb2.Customer]


@pytest.fixture
def ann(register: Register) -> customer_pb2.Customer:
    return register("Ann")


def record(client: Client, customer: customer_pb2.Customer, channel: str, summary: str = "called", **fields: Any):
    at = fields.pop("at", None)
    contact = customer_pb2.Contact(channel=f"CHANNEL_{channel}", direction="DIRECTION_INBOUND", summary=summary)
    if at is not None:
        contact.contact_time.FromDatetime(at)
    request = customer_pb2.RecordInteractionRequest(
        customer_id=customer.customer_id, contact=contact, request_id=str(uuid4()), **fields
    )
    return client.call(request).interaction


def timeline(client: Client, customer: customer_pb2.Customer, **fields: Any) -> list[customer_pb2.Interaction]:
    request = customer_pb2.ListInteractionsRequest(customer_id=customer.customer_id, **fields)
    return list(client.call(request).interactions)


def test_a_later_contact_on_another_channel_continues_the_open_interaction(client: Client, ann, store: Store) -> None:
    first = record(client, ann, "WEB", topic="billing")
    second = record(client, ann, "STORE", topic="billing")
    assert second.interaction_id == first.interaction_id
    assert [customer_pb2.Channel.Name(one.channel) for one in second.contacts] == ["CHANNEL_WEB", "CHANNEL_STORE"]
    kinds = [one.type.rpartition(".")[2] for one in testing.published(store)]
    assert kinds == ["CustomerRegistered", "InteractionOpened", "InteractionContinued"]


def test_without_a_topic_the_latest_open_interaction_goes_on(client: Client, ann) -> None:
    record(client, ann, "WEB", topic="billing")
    later = record(client, ann, "WEB", topic="fault")
    assert record(client, ann, "APP").interaction_id == later.interaction_id


def test_another_topic_or_the_wish_for_a_new_one_opens_a_new_one(client: Client, ann) -> None:
    first = record(client, ann, "WEB", topic="billing")
    assert record(client, ann, "WEB", topic="fault").interaction_id != first.interaction_id
    anew = record(client, ann, "WEB", topic="billing", start_new=True)
    assert anew.interaction_id != first.interaction_id
    statuses = {one.interaction_id: one.status for one in timeline(client, ann)}
    assert statuses[first.interaction_id] == customer_pb2.INTERACTION_STATUS_CLOSED


def test_contacts_at_the_same_moment_end_as_one_interaction(client: Client, ann) -> None:
    threads = [Thread(target=record, args=(client, ann, "WEB"), kwargs={"topic": "billing"}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = timeline(client, ann)
    assert len(found) == 1
    assert len(found[0].contacts) >= 1


def test_a_closed_interaction_takes_no_more(client: Client, ann) -> None:
    first = record(client, ann, "WEB", topic="billing")
    close = customer_pb2.CloseInteractionRequest(
        interaction_id=first.interaction_id, outcome="refunded", version=1, request_id=str(uuid4())
    )
    assert client.call(close).interaction.outcome == "refunded"
    with pytest.raises(Conflict, match="closed"):
        record(client, ann, "WEB", interaction_id=first.interaction_id)
    assert record(client, ann, "WEB", topic="billing").interaction_id != first.interaction_id


def test_silence_closes_an_interaction_by_timer(client: Client, ann, store: Store) -> None:
    opened = record(client, ann, "WEB", topic="billing", at=clock() - timedelta(hours=23))
    pending = list(store[timers.COLLECTION].find({}))
    assert [one["key"] for one in pending] == [opened.interaction_id]
    assert pending[0]["due"] - opened.last_contact_time.ToDatetime(UTC) == rules.SILENCE
    testing.commit(store, lambda work: TIMERS["interaction-silence"](work, opened.interaction_id, {}))
    closed = Reader(store).get(INTERACTIONS, opened.interaction_id)
    assert (closed.status, closed.outcome) == (customer_pb2.INTERACTION_STATUS_CLOSED, rules.SILENT)
    assert list(store[timers.COLLECTION].find({})) == []


def test_a_contact_of_tomorrow_and_of_nobody_is_refused(client: Client, ann) -> None:
    with pytest.raises(Invalid, match="contact_time"):
        record(client, ann, "WEB", at=datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(NotFound):
        record(client, customer_pb2.Customer(customer_id="nobody"), "WEB")


def test_an_interaction_of_somebody_else_is_not_continued(client: Client, ann, register: Register) -> None:
    other = record(client, register("Bob"), "WEB")
    with pytest.raises(Conflict, match="another customer"):
        record(client, ann, "WEB", interaction_id=other.interaction_id)


def test_the_timeline_is_newest_first_filtered_and_searched(client: Client, ann) -> None:
    start = datetime.now(UTC) - timedelta(hours=20)
    record(client, ann, "WEB", "账单有误", topic="billing", at=start)
    record(client, ann, "STORE", "line is dead", topic="fault", at=start + timedelta(hours=1))
    assert [one.topic for one in timeline(client, ann)] == ["fault", "billing"]
    assert [one.topic for one in timeline(client, ann, channel="CHANNEL_WEB")] == ["billing"]
    assert [one.topic for one in timeline(client, ann, query="有误")] == ["billing"]
    assert [one.topic for one in timeline(client, ann, query="dead LINE")] == ["fault"]
    assert timeline(client, ann, query="nothing of that") == []
    assert [one.topic for one in timeline(client, ann, status="INTERACTION_STATUS_OPEN", page_size=1)] == ["fault"]
    after = customer_pb2.ListInteractionsRequest(customer_id=ann.customer_id)
    after.start_after.FromDatetime(start + timedelta(minutes=30))
    assert [one.topic for one in client.call(after).interactions] == ["fault"]


def test_every_event_that_is_a_touch_has_a_place_on_the_timeline() -> None:
    assert set(subscribers.SUBSCRIPTIONS) == set(subscribers._touches())
    assert all(name.startswith(subscribers.PACKAGES) for name in subscribers.SUBSCRIPTIONS)


def ticket_opened(**fields: str):
    """An event of a service that does not exist yet, whose contract says that it is a touch."""
    file = descriptor_pb2.FileDescriptorProto(name="touch.proto", package="crm.desk.v1", syntax="proto3")
    message = file.message_type.add(name="TicketOpened")
    for number, name in enumerate(("ticket_id", "customer_id", "subject", "channel"), 1):
        message.field.add(name=name, number=number, type=9, label=1)
    event = message.options.Extensions[options_pb2.event]
    event.aggregate, event.key = "ticket", "ticket_id"
    event.touch.customer, event.touch.summary, event.touch.channel = "customer_id", "subject", "channel"
    event.touch.inbound = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("crm.desk.v1.TicketOpened"))(**fields)


def test_an_event_of_another_service_is_put_on_the_timeline(client: Client, ann, store: Store) -> None:
    event = ticket_opened(ticket_id="t1", customer_id=ann.customer_id, subject="no signal 没有信号", channel="APP")
    happened = clock() - timedelta(hours=3)  # the broker was away

    def handle(work: Work) -> None:
        work.occurred = happened
        subscribers.record_touch(work, event)

    testing.commit(store, handle)
    (found,) = timeline(client, ann, query="信号")
    (contact,) = found.contacts
    assert (found.topic, contact.channel, contact.direction) == (
        "ticket", customer_pb2.CHANNEL_APP, customer_pb2.DIRECTION_INBOUND,
    )  # fmt: skip
    assert contact.contact_time.ToDatetime(UTC) == happened
    assert [(one.type, one.id) for one in contact.links] == [("ticket", "t1")]
    again = ticket_opened(ticket_id="t1", customer_id=ann.customer_id, subject="still none", channel="NOWHERE")
    testing.commit(store, lambda work: subscribers.record_touch(work, again))
    (found,) = timeline(client, ann)
    assert [one.channel for one in found.contacts] == [customer_pb2.CHANNEL_APP, customer_pb2.CHANNEL_SYSTEM]
