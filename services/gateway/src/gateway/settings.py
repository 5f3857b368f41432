"""What a gateway process is told."""

from dataclasses import dataclass, make_dataclass

from chassis import contract


@dataclass(frozen=True)
class GatewaySettings:
    """`policy` is a shipped name or a file; `access_file` replaces the shipped roles.

    `oidc_issuer` with its `oidc_jwks_uri` lets our people in; without them only keys are taken. `threads` must be more
    than the policy's `concurrency`, which is what one slow service may hold. Ports are TCP ports on all interfaces.
    """

    mongodb_uri: str
    identity_key: str = ""
    policy: str = "internal"
    access_file: str = ""
    port: int = 8080
    http_port: int = 9090
    threads: int = 32
    oidc_issuer: str = ""
    oidc_audience: str = "guanxi"
    oidc_jwks_uri: str = ""
    log_level: str = "INFO"
    otlp_endpoint: str = ""
    trace_ratio: float = 1.0


def address_setting(service: str) -> str:
    """The setting that says where a service answers: `service_desk_address`."""
    return f"{service.replace('-', '_')}_address"


def addresses() -> type:
    """A settings class with one gRPC address for each service that has a contract; its name in a cluster by default."""
    fields = [(address_setting(one), str, f"dns:///{one}:50051") for one in contract.upstreams()]
    return make_dataclass("Addresses", fields, frozen=True)
