"""The operations of the analytics service, one line each."""

from collections.abc import Mapping

from analytics import queries
from chassis.rpc import Endpoint, query


def endpoints() -> Mapping[str, Endpoint]:
    """What answers each operation."""
    return {
        "GetFreshness": query(queries.get_freshness),
        "GetSummary": query(queries.get_summary),
        "GetCustomerFact": query(queries.get_customer_fact),
    }
