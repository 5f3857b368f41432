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
        Index("customer_id, occurred_time, aggregate_seq"),
        Index("occurred_time"),
        Index("_position", unique=True, field="event_id"),
    ),
    derive=lambda fact: {"_position": f"{fact.recorded_time.ToMilliseconds():014d}:{fact.event_id}"},
)
# How many events said the same in a period: by day for all times, by hour and minute for any instant within one; by
# partition of the events as well, so that two workers never count in one document:
# {"_id": "hour 2026-05-01T09|contacts,channel WEB|7", "period": "hour 2026-05-01T09",
#  "measures": [["contacts", ""], ["channel", "WEB"]], "count": …}
TOTALS = "totals"
TOTALS_INDEXES = (Index("period"),)

# A document for each partition: how many facts there are, and when the newest happened and arrived.
FRESHNESS = "freshness"

SCHEMA: Schema = {**schema(FACTS), TOTALS: TOTALS_INDEXES, FRESHNESS: ()}
