"""Answers from the facts, as they stand or as they stood."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain

from crm.analytics.v1 import analytics_pb2
from google.protobuf.message import Message

from analytics import rules
from analytics.commands import event_of
from analytics.store import FACTS, FRESHNESS, TOTALS
from chassis.errors import NotFound
from chassis.events import clock
from chassis.reads import Reader
from chassis.store import Document, Index

PAGE = 500
_TOTALS = ("customers", "archived", "interactions", "contacts")
_BREAKDOWNS = {"kind": "customers_by_kind", "source": "customers_by_source", "channel": "contacts_by_channel"}


def get_freshness(reader: Reader, _request: analytics_pb2.GetFreshnessRequest) -> analytics_pb2.GetFreshnessResponse:
    """How far the facts have come."""
    partitions = list(reader.store[FRESHNESS].find({}))
    if not partitions:
        return analytics_pb2.GetFreshnessResponse()
    newest = max(partitions, key=lambda one: one["recorded"])
    response = analytics_pb2.GetFreshnessResponse(facts=sum(one["count"] for one in partitions))
    response.occurred_time.FromDatetime(max(one["occurred"] for one in partitions))
    response.recorded_time.FromDatetime(newest["recorded"])
    response.lag_seconds = (newest["recorded"] - newest["occurred"]).total_seconds()
    # The worker that recorded it may have a clock that is ahead of ours.
    response.age_seconds = max((clock() - newest["recorded"]).total_seconds(), 0)
    return response


def get_summary(reader: Reader, request: analytics_pb2.GetSummaryRequest) -> analytics_pb2.GetSummaryResponse:
    """Totals of all events; those up to an instant are added up from whole days, hours and minutes, and only the last
    minute is read from its facts."""
    response = analytics_pb2.GetSummaryResponse()
    if not request.HasField("as_of"):
        response.as_of.FromDatetime(clock())
        _add_totals(response, reader, rules.EVER)
        return response
    as_of = request.as_of.ToDatetime(UTC)
    response.as_of.CopyFrom(request.as_of)
    for span in rules.complete(as_of):
        _add_totals(response, reader, span)
    minute = as_of.replace(second=0, microsecond=0)
    for fact in _facts(reader, {"occurred_time": {"$gte": minute, "$lte": as_of}}, order="occurred_time"):
        for measure in rules.measures(event_of(fact)):
            _add(response, measure, 1)
    return response


def _add_totals(response: analytics_pb2.GetSummaryResponse, reader: Reader, span: tuple[str, str]) -> None:
    start, end = span
    for total in reader.store[TOTALS].find({"period": {"$gte": start, "$lt": end}}):
        for name, of in total["measures"]:
            _add(response, rules.Measure(name, of), total["count"])


def _add(response: analytics_pb2.GetSummaryResponse, measure: rules.Measure, count: int) -> None:
    if measure.name in _TOTALS:
        setattr(response, measure.name, getattr(response, measure.name) + count)
    else:
        getattr(response, _BREAKDOWNS[measure.name])[measure.of] += count


def _facts(reader: Reader, where: Document, *, order: str) -> Iterator[analytics_pb2.Fact]:
    """The facts the filter finds in the order of an index; never more than a page of them is held."""
    cursor = reader.store[FACTS.name].find(where, session=reader.session).sort(Index(order).pairs)
    yield from map(FACTS.message, cursor.batch_size(PAGE))


def get_customer_fact(
    reader: Reader, request: analytics_pb2.GetCustomerFactRequest
) -> analytics_pb2.GetCustomerFactResponse:
    """A customer as its events up to an instant tell; raises `NotFound` when there is none."""
    where: Document = {"customer_id": request.customer_id}
    if request.HasField("as_of"):
        where["occurred_time"] = {"$lte": request.as_of.ToDatetime(UTC)}
    facts = _facts(reader, where, order="customer_id, occurred_time, aggregate_seq")
    first = next(facts, None)
    if first is None:
        raise NotFound(f"no fact is known of customer {request.customer_id[:100]!r}")
    history = map(_told, chain((first,), facts))
    return analytics_pb2.GetCustomerFactResponse(fact=rules.fold(request.customer_id, history))


def _told(fact: analytics_pb2.Fact) -> tuple[datetime, int, Message]:
    return fact.occurred_time.ToDatetime(UTC), fact.aggregate_seq, event_of(fact)
