"""What every process measures; `/metrics` serves it in the Prometheus text format."""

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)

RPC_SECONDS = Histogram("crm_rpc_seconds", "Time of an operation in its service.", ("method", "code"), buckets=_FAST)
RPC_IN_FLIGHT = Gauge("crm_rpc_in_flight", "Operations being carried out.")
CALL_SECONDS = Histogram("crm_call_seconds", "Time of a call to another service.", ("method", "code"), buckets=_FAST)
HTTP_SECONDS = Histogram("crm_http_seconds", "Time of an HTTP request.", ("route", "code"), buckets=_FAST)
HTTP_REFUSED = Counter("crm_http_refused_total", "Requests refused before they reached a service.", ("reason",))

STORE_SECONDS = Histogram("crm_store_seconds", "Time of a store command.", ("command",), buckets=_FAST)
STORE_FAILURES = Counter("crm_store_failures_total", "Store commands that failed.", ("command",))
STORE_UNAVAILABLE = Counter("crm_store_unavailable_total", "Work given up because the store did not answer.")
STORE_SLOW = Counter("crm_store_slow_total", "Store commands that took more than 200 ms.", ("query",))
TRANSACTION_SECONDS = Histogram(
    "crm_transaction_seconds", "Time of a transaction, repetitions included.", buckets=_FAST
)

OUTBOX_PUBLISHED = Counter("crm_outbox_published_total", "Events the broker confirmed.")
OUTBOX_FAILURES = Counter("crm_outbox_failures_total", "Events the broker did not take.", ("reason",))
OUTBOX_AGE = Gauge("crm_outbox_oldest_seconds", "Age of the oldest event not yet published.")
OUTBOX_BACKLOG = Gauge("crm_outbox_backlog", "Transactions whose events are not yet published, as far as seen.")
PARTITIONS_HELD = Gauge("crm_partitions_held", "Partitions this worker holds the lease of.")

BROKER_CONNECTED = Gauge("crm_broker_connected", "Whether there is a connection to the broker.", ("part",))

EVENTS_HANDLED = Counter("crm_events_handled_total", "Events by what became of them.", ("type", "result"))
EVENT_LAG = Histogram("crm_event_lag_seconds", "From an event's occurrence to the end of its handling.", buckets=_SLOW)
EVENTS_PARKED = Gauge("crm_events_parked", "Events that wait, by why.", ("state",))

TIMERS_FIRED = Counter("crm_timers_fired_total", "Timers that fired.", ("kind",))
TIMER_LATENESS = Histogram("crm_timer_lateness_seconds", "From a timer's due time to its effect.", buckets=_SLOW)
