"""What the chassis adds to a gRPC call, and the gateway to a request: the same calls with and without them.

The gateway stands before a service that answers at once. Its yardstick is a bare Flask application under the same
HTTP server with as many threads, which makes the same call to the same service and writes the same JSON.
"""

from functools import partial
from pathlib import Path

import grpc
from crm.customer.v1 import customer_pb2

import onebox
from bench import load
from bench.apart import Helper, helper
from bench.figures import CLIENTS, Figure, Plan, Target, compared, in_turns
from bench.ground import ground, redirected
from bench.load import Ask, Run
from bench.servers import METHOD, PATH
from chassis import contract, identity, rpc
from chassis.events import clock
from chassis.testing import somebody

AT_MOST = Target(1.5)
ASKED = "019f0000-0000-7000-8000-000000000000"
BARE_CALL = "the same message by grpcio alone, as many threads"
BARE_FLASK = "bare Flask, same HTTP server, threads, call and JSON; the service behind both answers at once"


def stand(name: str, role: str, directory: Path, **settings: str) -> tuple[str, onebox.Process]:
    """Starts one of the servers of `bench.servers`; its address and the process."""
    port, http = onebox.free_port(), onebox.free_port()
    process = onebox.start_service(
        name,
        module="bench.servers",
        role=role,
        settings=redirected() | settings | {"PORT": str(port), "HTTP_PORT": str(http)},
        directory=directory,
        ready_url=f"http://{onebox.HOST}:{http}/readyz",
    )
    return f"{onebox.HOST}:{port}", process


# --- gRPC ------------------------------------------------------------------------------------------------------------


def measure_rpc(plan: Plan) -> list[Figure]:
    """A call by one client at a time and by several at once."""
    directory = plan.directory / "rpc"
    directory.mkdir(parents=True, exist_ok=True)
    private, public = identity.write_keys(directory)
    ours, first = stand("chassis-rpc", "chassis-rpc", directory, IDENTITY_KEYS_FILE=str(public))
    bare, second = stand("bare-rpc", "bare-rpc", directory)
    try:
        with helper() as clients:
            return [
                figure
                for count in (1, CLIENTS)
                for figure in _calls(plan, clients, ours, bare, private.read_text(), count)
            ]
    finally:
        onebox.stop_all([first, second])


def _calls(plan: Plan, clients: Helper, ours: str, bare: str, key: str, count: int) -> list[Figure]:
    crowd = load.Crowd(count, plan.seconds)
    through = partial(clients.run, call_chassis, ours, key, crowd)
    plainly = partial(clients.run, call_bare, bare, crowd)
    return _compared("gRPC call through the chassis", count, in_turns(plan.rounds, through, plainly), BARE_CALL)


def _compared(name: str, count: int, pairs: list[tuple[Run, Run]], yardstick: str) -> list[Figure]:
    """By one client the time of a call; by several what the machine spends on it: seconds by calls done in them."""
    note = f"yardstick: {yardstick}"
    if count == 1:
        times = [(one.p50 * 1000, two.p50 * 1000) for one, two in pairs]
        return [compared(f"{name}, one client, p50", "µs", times, AT_MOST, note=note)]
    costs = [(1e6 / one.rate, 1e6 / two.rate) for one, two in pairs]
    return [compared(f"{name}, {count} clients, time by calls", "µs", costs, AT_MOST, note=note)]


def call_chassis(address: str, key: str, crowd: load.Crowd) -> Run:
    """Calls as the gateway does."""
    token = identity.load_signer(key).mint(somebody(), clock())
    operation = next(one for one in contract.operations() if one.method.name == METHOD)
    with rpc.channel(address) as channel:
        stub, request = rpc.Stub(channel), customer_pb2.GetCustomerRequest(customer_id=ASKED)

        def ask() -> object:
            return stub.call(operation, request, token=token, seconds=5)

        return load.drive(lambda _: ask, crowd)


def call_bare(address: str, crowd: load.Crowd) -> Run:
    """Calls with nothing but the library."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            PATH,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=customer_pb2.GetCustomerResponse.FromString,
        )
        request = customer_pb2.GetCustomerRequest(customer_id=ASKED)

        def make(_number: int) -> Ask:
            return lambda: call(request, timeout=5)

        return load.drive(make, crowd)


# --- HTTP ------------------------------------------------------------------------------------------------------------


def measure_http(plan: Plan) -> list[Figure]:
    """A request by one client at a time and by several at once."""
    with ground(plan.directory / "http") as place, helper() as clients:
        place.migrate("gateway")
        address, service = stand("bare-rpc", "bare-rpc", place.directory)
        bare, plain = stand("bare-http", "bare-http", place.directory, UPSTREAM=address)
        try:
            door = (place.gateway(customer=address), place.key())
            return [one for count in (1, CLIENTS) for one in _requests(plan, clients, door, bare, count)]
        finally:
            onebox.stop_all([service, plain])


def _requests(plan: Plan, clients: Helper, door: tuple[str, str], bare: str, count: int) -> list[Figure]:
    crowd = load.Crowd(count, plan.seconds)
    paths = [f"/v1/customers/{ASKED}"]
    through = partial(clients.run, load.gets, *door, paths, crowd)
    plainly = partial(clients.run, load.gets, f"http://{bare}", "", paths, crowd)
    return _compared("gateway request", count, in_turns(plan.rounds, through, plainly), BARE_FLASK)
