"""What the code says of its processes, to hold the files that deploy them to it."""

import importlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import make_secrets
import render
from chassis import config
from chassis.service import Settings
from gateway.settings import addresses

ROOT = Path(__file__).resolve().parents[2]
Variables = Mapping[str, bool]  # name -> whether a process cannot start without it


def variables(service: str) -> Variables:
    """Every variable that the processes of a service read."""
    module = importlib.import_module(f"{service.replace('-', '_')}.__main__")
    own = [one for name, one in vars(module).items() if name.endswith("Settings") and isinstance(one, type)]
    common: type[Any] = addresses() if service == "gateway" else Settings
    return {name: needed for kind in (common, *own) for name, needed in config.names(kind).items()}


@pytest.fixture(scope="session")
def known_variables() -> dict[str, Variables]:
    return {path.name: variables(path.name) for path in sorted((ROOT / "services").iterdir()) if path.is_dir()}


@pytest.fixture(scope="session")
def kustomizations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder k8s with new secrets for the local overlay."""
    folder = tmp_path_factory.mktemp("cluster") / "k8s"
    shutil.copytree(ROOT / "k8s", folder, ignore=shutil.ignore_patterns("secrets"))
    make_secrets.write(folder / "overlays/local/secrets", make_secrets.make())
    return folder


@pytest.fixture(scope="session")
def rendered(kustomizations: Path) -> Callable[[str], list[render.Resource]]:
    made = {name: render.render(kustomizations / name) for name in ("base", "overlays/local", "overlays/prod")}
    return made.__getitem__
