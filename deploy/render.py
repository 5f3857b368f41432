"""Renders the kustomizations of k8s/ where kustomize is not at hand: `python deploy/render.py k8s/overlays/local`.

It knows what these use and refuses everything else: resources, files as ConfigMaps and Secrets, strategic merge patches
with targets, namespace, labels, images and replicas. A test holds it to what kustomize makes of the same folders.
"""

import base64
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]
Step = Callable[[list[Resource], Any, Path], list[Resource]]

FILE = "kustomization.yaml"
CLUSTER_KINDS = ("Namespace",)
POD_OWNERS = ("Deployment", "StatefulSet", "Job")
# Lists whose entries a strategic merge tells apart by a key; all other lists are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
}


def render(folder: Path) -> list[Resource]:
    """The resources of a kustomization; raises `ValueError` where it asks for something unknown here."""
    wanted = yaml.safe_load((folder / FILE).read_text("utf-8"))
    unknown = wanted.keys() - STEPS.keys() - {"apiVersion", "kind", "generatorOptions"}
    if unknown:
        raise ValueError(f"{folder / FILE}: {', '.join(sorted(unknown))} is unknown here")
    if "generatorOptions" in wanted and wanted["generatorOptions"] != {"disableNameSuffixHash": True}:
        raise ValueError(f"{folder / FILE}: names with hashes are unknown here")
    found: list[Resource] = []
    for name, step in STEPS.items():
        if name in wanted:
            found = step(found, wanted[name], folder)
    return found


def merge(base: Any, patch: Any, name: str = "") -> Any:
    """A strategic merge: mappings by key (null removes), some lists by a key of their entries, the rest replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return _merge_mapping(base, patch)
    if name in MERGE_KEYS and isinstance(base, list) and isinstance(patch, list):
        return _merge_list(base, patch, MERGE_KEYS[name])
    return _without_nulls(patch)


def _merge_mapping(base: Resource, patch: Resource) -> Resource:
    kept = {name: value for name, value in base.items() if name not in patch}
    changed = {name: merge(base.get(name), value, name) for name, value in patch.items() if value is not None}
    return kept | changed


def _merge_list(base: list[Resource], patch: list[Resource], key: str) -> list[Resource]:
    # What the patch names comes first, as kustomize has it.
    old = {one[key]: one for one in base}
    return [merge(old.pop(one[key], {}), one) for one in patch] + list(old.values())


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return value


# --- what a kustomization may say, in the order in which it takes effect ---------------------------------------------


def _resources(found: list[Resource], paths: list[str], folder: Path) -> list[Resource]:
    for path in paths:
        found = found + _read(folder / path)
    return found


def _read(path: Path) -> list[Resource]:
    if path.is_dir():
        return render(path)
    return [deepcopy(one) for one in yaml.safe_load_all(path.read_text("utf-8")) if one is not None]


def _config_maps(found: list[Resource], wanted: list[Resource], folder: Path) -> list[Resource]:
    return found + [_generated("ConfigMap", one["name"], _contents(one, folder)) for one in wanted]


def _secrets(found: list[Resource], wanted: list[Resource], folder: Path) -> list[Resource]:
    made = [_generated("Secret", one["name"], _encoded(_contents(one, folder))) for one in wanted]
    return found + [one | {"type": "Opaque"} for one in made]


def _contents(wanted: Resource, folder: Path) -> dict[str, str]:
    if wanted.keys() != {"name", "files"}:
        raise ValueError(f"{wanted['name']}: only files are known here")
    return {Path(path).name: (folder / path).read_text("utf-8") for path in wanted["files"]}


def _encoded(contents: Mapping[str, str]) -> dict[str, str]:
    return {name: base64.b64encode(text.encode()).decode() for name, text in contents.items()}


def _generated(kind: str, name: str, data: Mapping[str, str]) -> Resource:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": dict(data)}


def _patches(found: list[Resource], wanted: list[Resource], folder: Path) -> list[Resource]:
    for one in wanted:
        patch = yaml.safe_load(one["patch"] if "patch" in one else (folder / one["path"]).read_text("utf-8"))
        found = _patched(found, patch, one["target"])
    return found


def _patched(found: list[Resource], patch: Resource, target: Mapping[str, str]) -> list[Resource]:
    hit = [_targeted(one, target) for one in found]
    if not any(hit):
        raise ValueError(f"a patch for {dict(target)} meets nothing")
    changes = {name: value for name, value in patch.items() if name not in ("apiVersion", "kind")}
    changes["metadata"] = {name: value for name, value in changes["metadata"].items() if name != "name"}
    return [merge(one, changes) if wanted else one for one, wanted in zip(found, hit, strict=True)]


def _targeted(resource: Resource, target: Mapping[str, str]) -> bool:
    if not target.keys() <= {"kind", "name"}:
        raise ValueError(f"patch target {dict(target)}: only kind and name are known here")
    values = {"kind": resource["kind"], "name": resource["metadata"]["name"]}
    return all(re.fullmatch(pattern, values[name]) for name, pattern in target.items())


def _namespace(found: list[Resource], name: str, _folder: Path) -> list[Resource]:
    for one in found:
        if one["kind"] not in CLUSTER_KINDS:
            one["metadata"]["namespace"] = name
    return found


def _labels(found: list[Resource], wanted: list[Resource], _folder: Path) -> list[Resource]:
    for one in wanted:
        if one.keys() != {"pairs", "includeTemplates"}:
            raise ValueError("only labels with pairs and includeTemplates are known here")
        for metadata in (metadata for resource in found for metadata in _labelled(resource)):
            metadata["labels"] = metadata.get("labels", {}) | one["pairs"]
    return found


def _labelled(resource: Resource) -> Iterator[Resource]:
    yield resource["metadata"]
    if resource["kind"] in POD_OWNERS:
        yield resource["spec"]["template"].setdefault("metadata", {})
    yield from (claim["metadata"] for claim in resource.get("spec", {}).get("volumeClaimTemplates", ()))


def _replicas(found: list[Resource], wanted: list[Resource], _folder: Path) -> list[Resource]:
    counts = {one["name"]: one["count"] for one in wanted}
    for one in found:
        if one["kind"] in ("Deployment", "StatefulSet") and one["metadata"]["name"] in counts:
            one["spec"]["replicas"] = counts[one["metadata"]["name"]]
    return found


def _images(found: list[Resource], wanted: list[Resource], _folder: Path) -> list[Resource]:
    chosen = {one["name"]: f"{one.get('newName', one['name'])}:{one['newTag']}" for one in wanted}
    for container in (one for resource in found for one in containers(resource)):
        container["image"] = chosen.get(container["image"], container["image"])
    return found


STEPS: Mapping[str, Step] = {
    "resources": _resources,
    "configMapGenerator": _config_maps,
    "secretGenerator": _secrets,
    "patches": _patches,
    "namespace": _namespace,
    "labels": _labels,
    "replicas": _replicas,
    "images": _images,
}


def containers(resource: Resource) -> list[Resource]:
    """Every container of a pod owner, the ones that run first included; none for other kinds."""
    if resource["kind"] not in POD_OWNERS:
        return []
    pod = resource["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def main() -> None:
    """The command line: documents on standard output."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python deploy/render.py <folder>")
    yaml.safe_dump_all(render(Path(sys.argv[1])), sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
