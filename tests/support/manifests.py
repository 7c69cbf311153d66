"""The kit's combinations, as what `kubectl kustomize` makes of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

KIT = Path(__file__).parents[2] / "deploy" / "kubernetes"
_COMBINATIONS = sorted(
    str(file.parent.relative_to(KIT))
    for file in (*KIT.glob("base/*"), *KIT.glob("overlays/*/*"), *KIT.glob("tests/*/*"))
    if file.name == "kustomization.yaml"
)


def _among(combination: str) -> Any:
    """All of them in `make check` and `make test-all`; in `make test` those with the most in them."""
    much = not combination.startswith("tests/") or combination.startswith("tests/everything")
    return pytest.param(combination, marks=() if much else pytest.mark.slow)


COMBINATIONS = [_among(combination) for combination in _COMBINATIONS]

Manifest = dict[str, Any]


def builder() -> list[str] | None:
    """What builds here, if anything does."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return None


@cache
def built(combination: str) -> str:
    """A combination's manifests as one text; the test is skipped where nothing can build them."""
    command = builder()
    if command is None:
        pytest.skip("neither kustomize nor kubectl is on PATH: nothing can build the combinations")
    done = subprocess.run([*command, KIT / combination], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{combination} does not build: {done.stderr}"
    return done.stdout


def manifests(combination: str) -> list[Manifest]:
    """A combination's manifests; a fresh copy."""
    return list(yaml.load_all(built(combination), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def raw_files() -> list[Path]:
    """The kit's files that hold whole manifests, and no patches."""
    resources: set[Path] = set()
    for file in KIT.rglob("kustomization.yaml"):
        for name in yaml.safe_load(file.read_text()).get("resources", []):
            path = (file.parent / name).resolve()
            if path.is_file():
                resources.add(path)
    return sorted(resources)


def pods(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each workload, and the pods that it makes: labels and specification."""
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            yield manifest, manifest["spec"]["template"]


def containers(template: Manifest) -> list[Manifest]:
    """Of a pod, those that only start it too."""
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def named(manifest: Manifest) -> str:
    """How a manifest is called in messages."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"
