"""What analytics keeps: the log of facts, and what is counted from it.

The log is the truth; everything else can be thrown away and built again from it.
"""

from crm.analytics.v1 import analytics_pb2

from chassis.store import Collection, Index, Schema, schema

FACTS = Collection(
    "facts",
    analytics_pb2.Fact,
    "event_id",
    indexes=(
        Index("aggregate_id, aggregate_seq", unique=True, field="aggregate_seq"),
        Index("customer_id, occurred_time"),
        Index("occurred_time"),
        Index("_position", unique=True, field="event_id"),
    ),
    derive=lambda fact: {"_position": f"{fact.recorded_time.ToMilliseconds():014d}:{fact.event_id}"},
)
# Totals by day, measure and partition of the events, so that two workers never count in one document:
# {"_id": "2026-05-01|contacts|WEB|7", "day": …, "measure": …, "of": …, "count": …}
TOTALS = "totals"
TOTALS_INDEXES = (Index("day"),)

# A document for each partition: how many facts there are, and when the newest happened and arrived.
FRESHNESS = "freshness"

SCHEMA: Schema = {**schema(FACTS), TOTALS: TOTALS_INDEXES, FRESHNESS: ()}
