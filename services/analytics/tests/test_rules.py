from datetime import UTC, datetime, timedelta

import pytest
from crm.customer.v1 import customer_pb2, events_pb2

from analytics import rules
from analytics.rules import Measure
from chassis import contract, privacy

DAY = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)


def customer(**fields) -> customer_pb2.Customer:
    given = {"customer_id": "c1", "kind": "CUSTOMER_KIND_PERSON", "status": "CUSTOMER_STATUS_ACTIVE", "source": "WEB"}
    return customer_pb2.Customer(**(given | fields))


def interaction(*channels: str) -> customer_pb2.Interaction:
    contacts = [customer_pb2.Contact(channel=f"CHANNEL_{one}") for one in channels]
    return customer_pb2.Interaction(interaction_id="i1", customer_id="c1", contacts=contacts)


def test_a_registration_counts_once_in_all_and_once_in_each_breakdown() -> None:
    found = rules.measures(events_pb2.CustomerRegistered(customer=customer(source="")))
    assert found == [Measure("customers"), Measure("kind", "PERSON"), Measure("source", "NONE")]


def test_only_the_last_contact_of_an_interaction_is_new() -> None:
    event = events_pb2.InteractionContinued(interaction=interaction("WEB", "STORE"))
    assert rules.measures(event) == [Measure("contacts"), Measure("channel", "STORE")]


def test_an_update_counts_nothing() -> None:
    assert rules.measures(events_pb2.CustomerUpdated(customer=customer())) == []


def test_an_event_counts_for_its_day_its_hour_and_its_minute() -> None:
    assert rules.periods(DAY) == ("day 2026-05-01", "hour 2026-05-01T09", "minute 2026-05-01T09:30")


def test_up_to_an_instant_every_minute_before_its_own_is_in_one_period() -> None:
    spans = rules.complete(DAY)
    minutes = (DAY - timedelta(minutes=one) for one in range(-3, 3000))
    for minute in minutes:
        within = [period for period in rules.periods(minute) for start, end in spans if start <= period < end]
        assert len(within) == (1 if minute < DAY else 0)


@pytest.mark.parametrize("name", sorted(contract.events()))
def test_the_customer_of_an_event_is_known_after_personal_data_is_gone(name: str) -> None:
    event = contract.events()[name]()
    for field in event.DESCRIPTOR.fields:
        if field.name == "customer":
            event.customer.CopyFrom(customer())
        elif field.name == "interaction":
            event.interaction.CopyFrom(interaction("WEB"))
    privacy.strip(event)
    about_a_customer = {"customer", "interaction"} & {field.name for field in event.DESCRIPTOR.fields}
    assert rules.customer_of(event) == ("c1" if about_a_customer else "")


def test_a_history_folds_into_the_state_after_it() -> None:
    later = DAY.replace(hour=11)
    history = [
        (DAY, 1, events_pb2.CustomerRegistered(customer=customer())),
        (DAY, 1, events_pb2.InteractionOpened(interaction=interaction("WEB"))),
        (later, 2, events_pb2.InteractionContinued(interaction=interaction("WEB", "STORE"))),
        (later, 2, events_pb2.CustomerArchived(customer=customer(status="CUSTOMER_STATUS_ARCHIVED"))),
    ]
    fact = rules.fold("c1", history)
    assert (fact.version, fact.kind, fact.status, fact.source) == (2, "PERSON", "ARCHIVED", "WEB")
    assert dict(fact.contacts_by_channel) == {"WEB": 1, "STORE": 1}
    assert fact.contacts == 2
    assert fact.registered_time.ToDatetime(UTC) == DAY
    assert fact.last_contact_time.ToDatetime(UTC) == fact.changed_time.ToDatetime(UTC) == later
