"""Answers from the facts, as they stand or as they stood."""

from datetime import UTC, datetime

from crm.analytics.v1 import analytics_pb2

from analytics import rules
from analytics.commands import event_of
from analytics.store import FACTS, FRESHNESS, TOTALS
from chassis.errors import NotFound
from chassis.events import clock
from chassis.reads import Reader
from chassis.store import Document

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
    return response


def get_summary(reader: Reader, request: analytics_pb2.GetSummaryRequest) -> analytics_pb2.GetSummaryResponse:
    """Totals of all events; those up to an instant are whole days from the totals and the last day from its facts."""
    response = analytics_pb2.GetSummaryResponse()
    if not request.HasField("as_of"):
        response.as_of.FromDatetime(clock())
        _add_totals(response, reader, {})
        return response
    as_of = request.as_of.ToDatetime(UTC)
    response.as_of.CopyFrom(request.as_of)
    _add_totals(response, reader, {"day": {"$lt": rules.day_of(as_of)}})
    for fact in reader.find(FACTS, {"occurred_time": {"$gte": _midnight(as_of), "$lte": as_of}}):
        for measure in rules.measures(event_of(fact)):
            _add(response, measure, 1)
    return response


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _add_totals(response: analytics_pb2.GetSummaryResponse, reader: Reader, where: Document) -> None:
    for total in reader.store[TOTALS].find(where):
        _add(response, rules.Measure(total["measure"], total["of"]), total["count"])


def _add(response: analytics_pb2.GetSummaryResponse, measure: rules.Measure, count: int) -> None:
    if measure.name in _TOTALS:
        setattr(response, measure.name, getattr(response, measure.name) + count)
    else:
        getattr(response, _BREAKDOWNS[measure.name])[measure.of] += count


def get_customer_fact(
    reader: Reader, request: analytics_pb2.GetCustomerFactRequest
) -> analytics_pb2.GetCustomerFactResponse:
    """A customer as its events up to an instant tell; raises `NotFound` when there is none."""
    where: Document = {"customer_id": request.customer_id}
    if request.HasField("as_of"):
        where["occurred_time"] = {"$lte": request.as_of.ToDatetime(UTC)}
    facts = reader.find(FACTS, where)
    if not facts:
        raise NotFound(f"no fact is known of customer {request.customer_id[:100]!r}")
    facts.sort(key=lambda one: (one.occurred_time.ToNanoseconds(), one.aggregate_seq))
    history = [(one.occurred_time.ToDatetime(UTC), one.aggregate_seq, event_of(one)) for one in facts]
    return analytics_pb2.GetCustomerFactResponse(fact=rules.fold(request.customer_id, history))
