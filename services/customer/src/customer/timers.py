"""What happens to customers and their interactions when a time has come."""

from chassis.store import Document
from chassis.work import Work
from customer.commands import interactions


def close_silent(work: Work, key: str, _payload: Document) -> None:
    """An open interaction was silent for too long."""
    interactions.close_silent(work, key)


TIMERS = {interactions.SILENCE: close_silent}
