"""Yardsticks that serve, each a process of its own: `python -m bench.servers bare-rpc|chassis-rpc|bare-http`.

`bare-rpc` is what the library's own guide shows: a thread pool and one function. `chassis-rpc` answers the same call
through the chassis. `bare-http` is Flask under the gateway's own HTTP server settings: one route, one bare call.
"""

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import orjson
from crm.customer.v1 import customer_pb2
from flask import Flask, Response
from gunicorn.app.base import BaseApplication
from pymongo import MongoClient

from bench import made
from chassis import codec, contract, http, identity, log, rpc, trace
from chassis.rpc import Call, Endpoint
from chassis.store import Store
from gateway.settings import GatewaySettings

SERVICE, METHOD = "crm.customer.v1.CustomerService", "GetCustomer"
PATH = f"/{SERVICE}/{METHOD}"


def answer() -> customer_pb2.GetCustomerResponse:
    """The same customer for everybody."""
    return customer_pb2.GetCustomerResponse(customer=made.customers(1)[0])


def bare_rpc() -> None:
    """Serves the call with nothing but grpcio, with as many threads as a service has."""
    response = answer()
    handler = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: response,
        request_deserializer=customer_pb2.GetCustomerRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    server = grpc.server(ThreadPoolExecutor(rpc.THREADS), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    server.start()
    _ready()
    server.wait_for_termination()


def chassis_rpc() -> None:
    """Serves it as a service does, tracing and metrics included; only the store is never asked."""
    log.configure("bench", "INFO")
    trace.configure("bench")
    client: MongoClient[dict[str, Any]] = MongoClient(connect=False)
    verifier = identity.load_verifier(Path(os.environ["IDENTITY_KEYS_FILE"]).read_text("utf-8"))
    server = rpc.Server("customer", Store(client, client["none"]), verifier, _endpoints())
    running = server.start(int(os.environ["PORT"]), host="127.0.0.1")
    _ready()
    running.wait_for_termination()


def _endpoints() -> Mapping[str, Endpoint]:
    response = answer()

    def same(_call: Call, _request: Any) -> Any:
        return response

    return {one.method.name: same for one in contract.operations(upstream="customer")}


def _ready() -> None:
    http.serve(int(os.environ["HTTP_PORT"]), list, host="127.0.0.1")


class _Bare(BaseApplication):  # type: ignore[misc]
    """Gunicorn as the gateway sets it, without what the gateway adds to its worker."""

    def load_config(self) -> None:
        chosen = {
            "bind": f"127.0.0.1:{os.environ['PORT']}",
            "worker_class": "gthread",
            "threads": GatewaySettings.threads,
            "keepalive": 15,
            "control_socket_disable": True,
            "loglevel": "warning",
            "worker_tmp_dir": "/dev/shm",
        }
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Runs in the worker: the channel is made after the fork."""
        app = bare_app(grpc.insecure_channel(os.environ["UPSTREAM"]))
        _ready()
        return app


def bare_app(channel: grpc.Channel) -> Flask:
    """One route that makes one call and shows its answer; no caller, right, quota, log, metric or trace."""
    call = channel.unary_unary(
        PATH,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=customer_pb2.GetCustomerResponse.FromString,
    )
    app = Flask("bare", static_folder=None)

    @app.get("/v1/customers/<customer_id>")
    def customer(customer_id: str) -> Response:
        found = call(customer_pb2.GetCustomerRequest(customer_id=customer_id), timeout=5)
        return Response(orjson.dumps(codec.to_json(found.customer)), content_type="application/json")

    return app


def bare_http() -> None:
    """Serves the bare application."""
    _Bare().run()


ROLES = {"bare-rpc": bare_rpc, "chassis-rpc": chassis_rpc, "bare-http": bare_http}


def main() -> None:
    """Serves until it is ended. The arguments are none of gunicorn's business."""
    role = sys.argv.pop()
    ROLES[role]()
    Event().wait()


if __name__ == "__main__":
    main()
