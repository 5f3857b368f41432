"""Wires and runs the analytics service: `python -m analytics migrate|serve|work|all|rebuild`."""

from analytics import commands, rpc, store, subscribers
from chassis.service import Service, run


def service() -> Service:
    """The analytics service."""
    return Service(
        name="analytics",
        schema=store.SCHEMA,
        endpoints=rpc.endpoints(),
        listens=subscribers.PACKAGES,
        every=subscribers.EVERY,
    )


if __name__ == "__main__":
    run(service, tasks={"rebuild": commands.rebuild})
