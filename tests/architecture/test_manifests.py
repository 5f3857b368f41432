"""What runs in a cluster is valid, restricted, and says what the code says."""

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import make_secrets
import onebox
import render
from chassis import http, process, rpc
from chassis.service import ROLES, Settings
from gateway.settings import GatewaySettings, addresses
from render import Resource

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ("overlays/local", "overlays/prod")
OLDEST, NEWEST = "1.29", kubernetes_validate.latest_version()
Rendered = Callable[[str], list[Resource]]
WORKLOADS = ("Deployment", "StatefulSet", "Job")
PORTS = {"grpc": Settings.rpc_port, "health": Settings.health_port, "operator": Settings.http_port,
         "http": GatewaySettings.port}  # fmt: skip


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [one for one in resources if one["kind"] in kinds]


def named(resources: list[Resource], kind: str) -> dict[str, Resource]:
    return {one["metadata"]["name"]: one for one in of_kind(resources, kind)}


def pod(owner: Resource) -> Resource:
    found: Resource = owner["spec"]["template"]["spec"]
    return found


def labels(owner: Resource) -> dict[str, str]:
    found: dict[str, str] = owner["spec"]["template"]["metadata"]["labels"]
    return found


def selects(selector: dict[str, dict[str, str]], owner: Resource) -> bool:
    return selector.get("matchLabels", {}).items() <= labels(owner).items()


def ours(resources: list[Resource]) -> Iterator[tuple[str, Resource, Resource]]:
    """Service, owner and main container of every process of our own images."""
    for owner in of_kind(resources, *WORKLOADS):
        main = pod(owner)["containers"][0]
        if found := re.search(r"guanxi/([a-z-]+)(:|$)", main["image"]):
            yield found[1], owner, main


def environment(resources: list[Resource], container: Resource) -> dict[str, str]:
    maps = named(resources, "ConfigMap")
    given: dict[str, str] = {}
    for source in container["envFrom"]:
        given |= maps[source["configMapRef"]["name"]]["data"]
    return given | {one["name"]: one["value"] for one in container.get("env", [])}


# --- rendering -------------------------------------------------------------------------------------------------------


def kustomize(folder: Path) -> list[Resource]:
    """What kustomize itself makes of a folder; skips the test where it is missing or too old."""
    for command in (["kustomize", "version"], ["kubectl", "version", "--client"]):
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
            if re.search(r"\bv[5-9]\.", said):
                build = [command[0], "build" if command[0] == "kustomize" else "kustomize", str(folder)]
                made = subprocess.run(build, capture_output=True, text=True, check=True, timeout=60).stdout
                return list(yaml.safe_load_all(made))
    pytest.skip("kustomize 5 is not installed")


def comparable(resources: list[Resource]) -> dict[tuple[str, str], Any]:
    def unwrapped(one: Resource) -> Resource:
        if one["kind"] != "Secret":
            return one
        return one | {"data": {name: "".join(text.split()) for name, text in one["data"].items()}}

    return {(one["kind"], one["metadata"]["name"]): unwrapped(one) for one in resources}


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_we_render_what_kustomize_renders(folder: str, kustomizations: Path, rendered: Rendered) -> None:
    assert comparable(rendered(folder)) == comparable(kustomize(kustomizations / folder))


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"namePrefix": "x-"}, "namePrefix"),
        ({"generatorOptions": {}}, "hashes"),
        ({"resources": [], "patches": [{"patch": "{}", "target": {"kind": "Job"}}]}, "meets nothing"),
        ({"resources": [], "configMapGenerator": [{"name": "x", "literals": ["a=b"]}]}, "only files"),
    ],
)
def test_what_the_renderer_does_not_know_it_refuses(wanted: Resource, why: str, tmp_path: Path) -> None:
    (tmp_path / render.FILE).write_text(yaml.safe_dump(wanted))
    with pytest.raises(ValueError, match=why):
        render.render(tmp_path)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_document_fits_its_schema(overlay: str, version: str, rendered: Rendered) -> None:
    assert len(rendered(overlay)) > 40
    for one in rendered(overlay):
        kubernetes_validate.validate(one, version, strict=True)


def test_a_wrong_document_does_not_fit_its_schema(rendered: Rendered) -> None:
    wrong = named(rendered("overlays/prod"), "Deployment")["customer-serve"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**wrong, "spec": {**wrong["spec"], "replica": 1}}, NEWEST, strict=True)


# --- what runs -------------------------------------------------------------------------------------------------------


def test_every_service_has_its_processes_and_its_migration(rendered: Rendered, known_variables: dict[str, Any]) -> None:
    roles = {(service, container["args"][0]) for service, _, container in ours(rendered("overlays/prod"))}
    expected = {(one, role) for one in known_variables for role in ("migrate", "serve", "work")}
    assert roles == expected - {("gateway", "work")}
    assert {role for _, role in roles} <= set(ROLES)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_processes_are_told_what_they_read(overlay: str, rendered: Rendered, known_variables: dict[str, Any]) -> None:
    for service, owner, container in ours(rendered(overlay)):
        given = {name.removesuffix("_FILE") for name in environment(rendered(overlay), container)}
        needed = {name for name, required in known_variables[service].items() if required}
        assert given <= known_variables[service].keys(), owner["metadata"]["name"]
        assert needed <= given, owner["metadata"]["name"]


def test_every_secret_file_is_a_key_of_the_secret_of_the_service(rendered: Rendered) -> None:
    resources = rendered("overlays/local")
    secrets = named(resources, "Secret")
    for service, owner, container in ours(resources):
        files = {text for name, text in environment(resources, container).items() if name.endswith("_FILE")}
        volume = next(one["secret"] for one in pod(owner)["volumes"] if one["name"] == "secrets")
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert volume == {"secretName": service}
        assert files == {f"{mounts['secrets']}/{key}" for key in secrets[service]["data"]}


def test_the_three_gateways_have_their_policies(rendered: Rendered) -> None:
    resources = rendered("overlays/prod")
    found = {owner["metadata"]["name"]: environment(resources, container).get("POLICY")
             for service, owner, container in ours(resources)
             if service == "gateway" and owner["kind"] == "Deployment"}  # fmt: skip
    shipped = {path.stem for path in (ROOT / "services/gateway/src/gateway/policies").glob("*.yaml")}
    assert found == {f"gateway-{one}": one for one in shipped}


def test_ports_are_those_the_processes_open(rendered: Rendered) -> None:
    for service, owner, container in ours(rendered("overlays/prod")):
        opened = {one["name"]: one["containerPort"] for one in container.get("ports", [])}
        expected = {"migrate": set(), "work": {"operator"}, "serve": {"operator", "grpc", "health"}}
        role = "gateway" if service == "gateway" and owner["kind"] == "Deployment" else container["args"][0]
        wanted = {**expected, "gateway": {"operator", "http"}}[role]
        assert opened == {name: PORTS[name] for name in wanted}


def test_services_stand_where_the_gateway_looks_for_them(rendered: Rendered) -> None:
    services = named(rendered("overlays/prod"), "Service")
    for address in vars(addresses()()).values():
        host, port = address.removeprefix("dns:///").split(":")
        assert services[host]["spec"]["clusterIP"] == "None"
        assert [str(one["port"]) for one in services[host]["spec"]["ports"]] == [port]


def test_services_and_budgets_and_policies_select_something(rendered: Rendered) -> None:
    resources = rendered("overlays/prod")
    owners = of_kind(resources, *WORKLOADS)
    selectors = [{"matchLabels": one["spec"]["selector"]} for one in of_kind(resources, "Service")]
    selectors += [one["spec"]["selector"] for one in of_kind(resources, "PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"] for one in of_kind(resources, "NetworkPolicy")]
    for policy in of_kind(resources, "NetworkPolicy"):
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        peers = [peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]]
        selectors += [one["podSelector"] for one in peers if "podSelector" in one and "namespaceSelector" not in one]
    assert [one for one in selectors if not any(selects(one, owner) for owner in owners)] == []


def test_probes_ask_what_the_processes_answer(rendered: Rendered) -> None:
    port = onebox.free_port()
    close = http.serve(port, lambda: [], host=onebox.HOST)
    try:
        for _, owner, container in ours(rendered("overlays/prod")):
            probes = [container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")
                      if owner["kind"] == "Deployment"]  # fmt: skip
            for asked in (one["httpGet"] for one in probes if "httpGet" in one):
                assert asked["port"] == "operator"
                assert urllib.request.urlopen(f"http://{onebox.HOST}:{port}{asked['path']}", timeout=5).status == 200
            assert {one["grpc"]["port"] for one in probes if "grpc" in one} <= {Settings.health_port}
    finally:
        close()


def test_pods_have_time_to_drain(rendered: Rendered) -> None:
    for _, owner, container in ours(rendered("overlays/prod")):
        if owner["kind"] == "Deployment":
            before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            drained = max(process.DRAIN_SECONDS, rpc.NOT_SERVING_SECONDS + rpc.server.GRACE_SECONDS)
            assert before + drained < pod(owner)["terminationGracePeriodSeconds"]


# --- what pods may do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted(overlay: str, rendered: Rendered) -> None:
    for owner in of_kind(rendered(overlay), *WORKLOADS):
        assert pod(owner)["automountServiceAccountToken"] is False
        context = pod(owner)["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in render.containers(owner):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_has_requests_limits_and_a_fixed_image(overlay: str, rendered: Rendered) -> None:
    for container in (one for owner in rendered(overlay) for one in render.containers(owner)):
        assert {kind: set(container["resources"][kind]) for kind in ("requests", "limits")} == {
            "requests": {"cpu", "memory"},
            "limits": {"cpu", "memory"},
        }
        assert re.search(r":\d", container["image"])


def test_what_scales_by_itself_has_no_fixed_number(rendered: Rendered) -> None:
    resources = rendered("overlays/prod")
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(resources, "HorizontalPodAutoscaler")}
    deployments = named(resources, "Deployment")
    assert scaled == {name for name, one in deployments.items() if "replicas" not in one["spec"]}
    assert scaled == {name for name in deployments if not name.endswith("-work")}


def test_every_pod_that_runs_on_has_a_budget_for_disruptions(rendered: Rendered) -> None:
    budgets = [one["spec"]["selector"] for one in of_kind(rendered("overlays/prod"), "PodDisruptionBudget")]
    for owner in of_kind(rendered("overlays/prod"), "Deployment", "StatefulSet"):
        assert sum(selects(one, owner) for one in budgets) == 1


def test_only_workers_reach_the_broker_and_only_gateways_reach_services(rendered: Rendered) -> None:
    resources = rendered("overlays/prod")
    policies = named(resources, "NetworkPolicy")
    assert policies["deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    talkers = {owner["metadata"]["name"] for _, owner, _ in ours(resources) if "guanxi/broker" in labels(owner)}
    assert talkers == {name for name in named(resources, "Deployment") if name.endswith("-work")}
    assert policies["calls"]["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": Settings.rpc_port}]
    assert all(labels(owner).get("guanxi/store") == "client" for _, owner, _ in ours(resources))


def test_every_service_has_a_user_of_its_own_in_the_store(rendered: Rendered, known_variables: dict[str, Any]) -> None:
    job = named(rendered("overlays/prod"), "Job")["mongodb-init"]
    sources = next(one["projected"]["sources"] for one in pod(job)["volumes"] if one["name"] == "users")
    found = {one["secret"]["name"]: one["secret"]["items"] for one in sources}
    assert found == {one: [{"key": "mongodb-uri", "path": one}] for one in known_variables}


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_kept_in_the_repository(rendered: Rendered) -> None:
    assert of_kind(rendered("base"), "Secret") == []
    assert of_kind(rendered("overlays/prod"), "Secret") == []
    assert "secrets/" in (ROOT / "k8s/overlays/local/.gitignore").read_text("utf-8").splitlines()


def test_secrets_are_new_every_time_and_made_once(tmp_path: Path) -> None:
    first, second = make_secrets.make(), make_secrets.make()
    assert first.keys() == second.keys()
    assert not {text for one in first.values() for text in one.values()} & {
        text for one in second.values() for text in one.values()
    }
    make_secrets.write(tmp_path / "secrets", first)
    with pytest.raises(FileExistsError):
        make_secrets.write(tmp_path / "secrets", second)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.rglob("*/*") if path.is_file()} == {0}
