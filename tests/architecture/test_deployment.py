"""Images, the compose file and what watches them say what the code says."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

import render
from chassis import broker, events, metrics
from chassis.service import Settings
from gateway.settings import GatewaySettings, addresses

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
PROMETHEUS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))
RULES = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"]
         for rule in group["rules"]]  # fmt: skip
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
IGNORED = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
DISTRIBUTIONS = sorted(
    path.parent for path in [*ROOT.glob("services/*/pyproject.toml"), ROOT / "chassis/pyproject.toml"]
)
# What a distribution of modules below a shared name is called, and what is needed without being imported.
SHARED_NAMES = {
    "google.protobuf": "protobuf",
    "google": "googleapis-common-protos",
    "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry": "opentelemetry-api",
    "chassis": "guanxi-chassis",
}
CONTRACTS = ("crm", "buf")
NOT_IMPORTED = {"customer": {"tzdata"}}


def ours() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Service, name and definition of every container of our images that runs a role."""
    for name, one in COMPOSE["services"].items():
        found = re.fullmatch(r"guanxi/([a-z-]+):.+", one["image"])
        if found and "entrypoint" not in one:
            yield found[1], name, one


PROCESSES = [(service, name, one) for service, name, one in ours() if one["command"] != ["migrate"]]


# --- compose ---------------------------------------------------------------------------------------------------------


def test_every_service_has_its_processes(known_variables: dict[str, Any]) -> None:
    roles = {(service, one["command"][0]) for service, _, one in ours()}
    expected = {(service, role) for service in known_variables for role in ("migrate", "serve", "work")}
    assert roles == expected - {("gateway", "work")}
    policies = {path.stem for path in (ROOT / "services/gateway/src/gateway/policies").glob("*.yaml")}
    assert {one["environment"]["POLICY"]: name for service, name, one in PROCESSES if service == "gateway"} == {
        policy: f"gateway-{policy}" for policy in policies
    }


@pytest.mark.parametrize(("service", "name", "one"), list(ours()), ids=[name for _, name, _ in ours()])
def test_processes_are_told_what_they_read(
    service: str, name: str, one: dict[str, Any], known_variables: dict[str, Any]
) -> None:
    given = {variable.removesuffix("_FILE") for variable in one["environment"]}
    assert given <= known_variables[service].keys()
    assert {variable for variable, required in known_variables[service].items() if required} <= given
    mounts = [volume.split(":")[1] for volume in one["volumes"]]
    files = [path for variable, path in one["environment"].items() if variable.endswith("_FILE")]
    assert files
    assert all(any(path.startswith(f"{mount}/") for mount in mounts) for path in files)


def test_secret_files_are_made_by_the_first_start() -> None:
    made = " ".join(COMPOSE["services"]["secrets"]["command"])
    files = {path for _, _, one in ours() for name, path in one["environment"].items() if name.endswith("_FILE")}
    assert {path.rpartition("/")[2] for path in files} == {"identity-key.json", "identity-keys.json", "token-secret"}
    assert all(path.rpartition("/")[0] in made for path in files)
    only_gateways = {service for service, _, one in ours() if "identity:/identity:ro" in one["volumes"]}
    assert only_gateways == {"gateway"}


def test_services_stand_where_the_gateway_looks_for_them() -> None:
    aliases = {alias: name for name, one in COMPOSE["services"].items() if isinstance(one.get("networks"), dict)
               for alias in one["networks"]["inside"]["aliases"]}  # fmt: skip
    hosts = [address.removeprefix("dns:///").partition(":")[0] for address in vars(addresses()()).values()]
    assert aliases == {host: f"{host}-serve" for host in hosts}


def test_store_and_broker_are_where_the_processes_look_for_them() -> None:
    services = COMPOSE["services"]
    user = services["rabbitmq"]["environment"]
    for service, _, one in ours():
        assert one["environment"]["MONGODB_URI"].startswith("mongodb://mongodb:27017/")
        if service != "gateway":
            signed_in = f"{user['RABBITMQ_DEFAULT_USER']}:{user['RABBITMQ_DEFAULT_PASS']}"
            assert one["environment"]["AMQP_URL"] == f"amqp://{signed_in}@rabbitmq:5672/%2F"
    assert {"mongodb", "rabbitmq"} <= services.keys()
    assert {name for name, one in services.items() if "outside" in one.get("networks", [])} == {
        "gateway-internal", "gateway-public", "gateway-partner", "prometheus",
    }  # fmt: skip


def test_processes_are_restricted_and_probed() -> None:
    for _, _, one in PROCESSES:
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["user"] == "10001:10001"
        assert f":{Settings.http_port}/readyz" in one["healthcheck"]["test"][-1]
        inner = {published.rpartition(":")[2] for published in one.get("ports", [])}
        assert inner <= {str(GatewaySettings.port)}


def test_everything_named_in_compose_exists() -> None:
    for one in COMPOSE["services"].values():
        assert one.get("depends_on", {}).keys() <= COMPOSE["services"].keys()
        for volume in one.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
        build = one.get("build")
        assert build is None or (DEPLOY / build["context"] / build["dockerfile"]).is_file()
        assert build is None or (ROOT / "services" / build["args"]["SERVICE"]).is_dir()


def test_a_cluster_and_compose_run_the_same_images() -> None:
    local = yaml.safe_load((ROOT / "k8s/overlays/local" / render.FILE).read_text("utf-8"))
    cluster = {f"{one['name']}:{one['newTag']}" for one in local["images"]}
    watchers = {"prometheus", "blackbox"}
    assert {one["image"] for name, one in COMPOSE["services"].items() if name not in watchers} == cluster


def test_a_cluster_s_broker_has_every_setting_of_the_single_one() -> None:
    def settings(path: str) -> set[str]:
        lines = (ROOT / path).read_text("utf-8").splitlines()
        return {line for line in lines if line and not line.startswith("#")}

    assert settings("deploy/rabbitmq.conf") <= settings("k8s/base/rabbitmq.conf")


# --- watching --------------------------------------------------------------------------------------------------------


def targets(job: str) -> list[str]:
    found = next(one for one in PROMETHEUS["scrape_configs"] if one["job_name"] == job)
    return [target for group in found["static_configs"] for target in group["targets"]]


def test_every_process_is_scraped_and_asked_whether_it_is_ready(known_variables: dict[str, Any]) -> None:
    for wanted in known_variables:
        assert targets(wanted) == [
            f"{name}:{Settings.http_port}" for service, name, _ in PROCESSES if service == wanted
        ]
    assert sorted(targets("ready")) == sorted(target for service in known_variables for target in targets(service))


def test_alerts_ask_for_what_is_measured() -> None:
    assert metrics.OUTBOX_AGE  # the chassis has registered its metrics
    measured = {sample for one in REGISTRY.collect() for sample in _samples(one)}
    asked = {name for rule in RULES for name in re.findall(r"\b(?:crm|rabbitmq)_[a-z_]+", rule["expr"])}
    assert "crm_outbox_oldest_seconds" in asked
    assert asked - measured == {"rabbitmq_detailed_queue_messages"}
    states = {state for rule in RULES for state in re.findall(r'state="(\w+)"', rule["expr"])}
    assert states <= {"early", "failed", "dead"}
    jobs = {job for rule in RULES for job in re.findall(r'job!?="(\w+)"', rule["expr"])}
    assert jobs <= {one["job_name"] for one in PROMETHEUS["scrape_configs"]}


def _samples(metric: Any) -> set[str]:
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(metric.type, ("",))
    return {f"{metric.name}{suffix}" for suffix in suffixes}


def test_alerts_have_the_agreed_limits() -> None:
    rules = {rule["alert"]: rule for rule in RULES}
    limits = {name: (rule["expr"].rpartition(" ")[0].rpartition(" ")[2], rule["expr"].rpartition(" ")[2], rule["for"])
              for name, rule in rules.items() if "for" in rule}  # fmt: skip
    assert limits["EventsDoNotLeave"] == (">", "30", "1m")
    assert limits["DeadLetters"] == limits["EventsGivenUp"] == (">=", "1", "5m")
    assert limits["ProcessNotReady"] == limits["ProcessGone"] == ("==", "0", "1m")
    assert limits["PartitionsWithoutWorker"][:2] == ("<", str(events.PARTITIONS))
    assert f'queue="{broker.DEAD}"' in rules["DeadLetters"]["expr"]
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]


# --- images ----------------------------------------------------------------------------------------------------------


def test_the_image_opens_the_ports_and_runs_as_nobody(known_variables: dict[str, Any]) -> None:
    exposed = set(re.search(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)[1].split())  # type: ignore[index]
    ports = (Settings.rpc_port, Settings.health_port, Settings.http_port, GatewaySettings.port)
    assert exposed == set(map(str, ports))
    assert "USER 10001:10001" in DOCKERFILE
    bases = re.findall(r"^FROM (python:\S+)", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 2
    assert len(set(bases)) == 1


def test_what_the_image_is_built_from_is_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)
    allowed = [line.removeprefix("!") for line in IGNORED if line.startswith("!")]
    assert IGNORED[1] == "*"
    for source in (one.partition("/$")[0] for one in copied):
        assert (ROOT / source).exists()
        assert any(one == source or one.startswith(f"{source}/") for one in allowed)


def imported(folder: Path) -> Iterator[str]:
    for path in sorted((folder / "src").rglob("*.py")):
        if path.name != "testing.py":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    yield from (one.name for one in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield node.module or ""


def distribution(module: str, known: dict[str, list[str]]) -> str:
    names = (name for name in SHARED_NAMES if module == name or module.startswith(f"{name}."))
    shared = next(names, None)
    top = module.partition(".")[0]
    return SHARED_NAMES[shared] if shared else known[top][0].lower().replace("_", "-")


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda path: path.name)
def test_a_distribution_needs_what_it_imports_and_nothing_else(folder: Path) -> None:
    known = dict(metadata.packages_distributions())
    own = (folder.name.replace("-", "_"), *CONTRACTS, *sys.stdlib_module_names)
    needed = {distribution(one, known) for one in imported(folder) if one.partition(".")[0] not in own}
    declared = set(_project(folder)["dependencies"])
    assert declared == needed | NOT_IMPORTED.get(folder.name, set())


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda path: path.name)
def test_what_a_distribution_needs_is_pinned(folder: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE)) | {"guanxi-chassis"}
    assert set(_project(folder)["dependencies"]) <= pinned
    assert {"setuptools", "uv", "grpcio-tools", "googleapis-common-protos", "protovalidate"} <= pinned


def test_everything_has_one_version() -> None:
    versions = {_project(folder)["version"] for folder in DISTRIBUTIONS}
    images = {one["image"].rpartition(":")[2] for _, _, one in ours()}
    assert versions == images


def _project(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    return found
