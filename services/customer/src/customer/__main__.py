"""Wires and runs the customer service: `python -m customer migrate|serve|work|all`."""

from dataclasses import dataclass
from functools import partial

from phonenumbers import SUPPORTED_REGIONS

from chassis.service import Service, run
from customer import jobs, rpc, store, subscribers, timers


@dataclass(frozen=True)
class CustomerSettings:
    """`default_region`: the country (ISO 3166-1) of phone numbers written without one."""

    default_region: str = "CN"

    def __post_init__(self) -> None:
        if self.default_region not in SUPPORTED_REGIONS:
            raise ValueError(
                f"DEFAULT_REGION must be a country of ISO 3166-1, such as CN; it is {self.default_region!r}"
            )


def service(settings: CustomerSettings) -> Service:
    """The customer service."""
    return Service(
        name="customer",
        schema=store.SCHEMA,
        endpoints=rpc.endpoints(region=settings.default_region),
        handlers=subscribers.SUBSCRIPTIONS,
        listens=subscribers.PACKAGES,
        timers=timers.TIMERS,
        loops={"imports": partial(jobs.run, region=settings.default_region)},
    )


if __name__ == "__main__":
    run(service, CustomerSettings)
