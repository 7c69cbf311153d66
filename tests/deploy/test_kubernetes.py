"""The kit: every combination builds, fits the schemas of its kinds, and keeps the policies."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support import policies
from support.manifests import (
    COMBINATIONS,
    KIT,
    Manifest,
    built,
    manifests,
    named,
    raw_files,
)

from convlens_client.front import OPTIONS, Front

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = ("1.36", "1.37")


@cache
def schema(kind: str) -> Any:
    return json.loads((SCHEMAS / f"{kind}.json").read_text())


def check_schema(manifest: Manifest, version: str) -> None:
    """Raises where a manifest has a field that its kind has not, or one of another type."""
    _check_schema(json.dumps(manifest), version)


@cache
def _check_schema(text: str, version: str) -> None:
    manifest = json.loads(text)  # Combinations have much in common.
    group = manifest["apiVersion"].rpartition("/")[0]
    kind = f"{group}.{manifest['kind']}"
    if (SCHEMAS / f"{kind}.json").exists():
        assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
        jsonschema.validate(manifest["spec"], schema(kind))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The validator's imports.
        import kubernetes_validate
    kubernetes_validate.validate(manifest, version, strict=True)


def breaches(combination: list[Manifest], policy: policies.Policy) -> list[str]:
    return list(policy(combination))


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_builds_and_fits_the_schemas(combination: str) -> None:
    found = manifests(combination)
    for version in VERSIONS:
        for manifest in found:
            check_schema(manifest, version)


@pytest.mark.parametrize("file", raw_files(), ids=lambda file: str(file.relative_to(KIT)))
def test_files_fit_the_schemas_where_nothing_can_build(file: Path) -> None:
    for manifest in yaml.safe_load_all(file.read_text()):
        check_schema(manifest, VERSIONS[-1])


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_keeps_every_policy(combination: str) -> None:
    found = manifests(combination)
    assert [breach for policy in policies.POLICIES for breach in policy(found)] == []


def test_envoy_is_started_as_the_code_would_and_finds_what_its_file_names() -> None:
    found = list(yaml.safe_load_all((KIT / "components/public/envoy.yaml").read_text()))
    (pod,) = (each["spec"]["template"]["spec"] for each in found if each["kind"] == "Deployment")
    (service,) = (each["spec"] for each in found if each["kind"] == "Service")
    (container,) = pod["containers"]
    front = Front.of_kit("convlens-server-headless:8500")
    assert container["args"] == [*OPTIONS]
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    listens = {"calls": front.listen, "health": front.health}
    assert ports == {name: listen.rpartition(":")[2] for name, listen in listens.items()}
    assert service["ports"][0]["targetPort"] in ports
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert front.certificate is not None
    assert {str(front.certificate.parent), container["command"][-1]} <= mounted
    assert front.heap_megabytes <= int(container["resources"]["limits"]["memory"].removesuffix("Mi")) / 2


def test_every_component_is_in_a_combination() -> None:
    used = {
        Path(component).name
        for file in (*KIT.glob("tests/*/kustomization.yaml"), *KIT.glob("overlays/*/kustomization.yaml"))
        for component in yaml.safe_load(file.read_text()).get("components", [])
    }
    assert used == {folder.name for folder in (KIT / "components").iterdir()}


CHECKOV = Path(f"{sys.prefix}-checkov", "bin", "checkov")
EXCEPTIONS = {
    "CKV_K8S_15": "tags are fixed; to pull each time would make every start need the registry",
    "CKV_K8S_43": "digests are the installation's, of the images that it has built or mirrored",
}
"""What Checkov would have otherwise, and why the kit has it so."""


@pytest.mark.slow
def test_checkov_finds_nothing_but_the_exceptions(tmp_path: Path) -> None:
    if not CHECKOV.exists():
        pytest.skip(f"there is no {CHECKOV}; `make test-all` installs it")
    for name in ("overlays/dev", "overlays/gpu-production", "tests/everything-on-cpu", "tests/gpu-mig"):
        (tmp_path / f"{Path(name).name}.yaml").write_text(built(name))
    command = [CHECKOV, "--directory", tmp_path, "--framework", "kubernetes", "--output", "json", "--quiet"]
    report = json.loads(subprocess.run(command, check=False, capture_output=True).stdout)
    assert report["summary"]["passed"] > 500
    found = {check["check_id"]: check["check_name"] for check in report["results"]["failed_checks"]}
    assert found.keys() == EXCEPTIONS.keys(), found


Plant = Callable[[list[Manifest]], None]


def _server(found: list[Manifest]) -> Any:
    return next(manifest for manifest in found if named(manifest) == "Deployment/convlens-server")


def _container(found: list[Manifest]) -> Any:
    return _server(found)["spec"]["template"]["spec"]["containers"][0]


def _pod(found: list[Manifest]) -> Any:
    return _server(found)["spec"]["template"]["spec"]


def _without(kind_and_name: str, found: list[Manifest]) -> None:
    found[:] = [manifest for manifest in found if named(manifest) != kind_and_name]


PLANTED: dict[str, tuple[policies.Policy, Plant]] = {
    "latest": (
        policies.images_are_fixed,
        lambda found: _container(found).update(image="convlens-server:latest"),
    ),
    "no tag": (
        policies.images_are_fixed,
        lambda found: _container(found).update(image="registry:5000/convlens-server"),
    ),
    "latest models": (
        policies.images_are_fixed,
        lambda found: _pod(found)["volumes"].append({"name": "more", "image": {"reference": "models"}}),
    ),
    "no limit of memory": (
        policies.resources_are_bounded,
        lambda found: _container(found)["resources"]["limits"].pop("memory"),
    ),
    "no requests": (
        policies.resources_are_bounded,
        lambda found: _container(found)["resources"].pop("requests"),
    ),
    "a folder without end": (
        policies.resources_are_bounded,
        lambda found: _pod(found)["volumes"].append({"name": "more", "emptyDir": {}}),
    ),
    "no readiness": (
        policies.containers_are_probed,
        lambda found: _container(found).pop("readinessProbe"),
    ),
    "root": (
        policies.pods_are_restricted,
        lambda found: _pod(found)["securityContext"].pop("runAsNonRoot"),
    ),
    "writable root": (
        policies.pods_are_restricted,
        lambda found: _container(found)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    "a capability": (
        policies.pods_are_restricted,
        lambda found: _container(found)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    ),
    "a folder of the host": (
        policies.pods_are_restricted,
        lambda found: _pod(found)["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    ),
    "no seccomp": (
        policies.pods_are_restricted,
        lambda found: _pod(found)["securityContext"].pop("seccompProfile"),
    ),
    "a token": (
        policies.pods_are_restricted,
        lambda found: _pod(found).pop("automountServiceAccountToken"),
    ),
    "a lenient namespace": (
        policies.namespaces_are_restricted,
        lambda found: found[0]["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
    ),
    "a password": (
        policies.secrets_are_elsewhere,
        lambda found: _container(found).update(env=[{"name": "REDIS_PASSWORD", "value": "hunter2"}]),
    ),
    "a secret in a variable": (
        policies.secrets_are_elsewhere,
        lambda found: _container(found).update(
            env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}]
        ),
    ),
    "a Secret as variables": (
        policies.secrets_are_elsewhere,
        lambda found: _container(found)["envFrom"].append({"secretRef": {"name": "x"}}),
    ),
    "a password in a URL": (
        policies.secrets_are_elsewhere,
        lambda found: _container(found).update(env=[{"name": "CONVLENS_REDIS", "value": "redis://a:b@c"}]),
    ),
    "a Secret": (
        policies.secrets_are_elsewhere,
        lambda found: found.append({"kind": "Secret", "metadata": {"name": "keys"}, "data": {}}),
    ),
    "a port that nothing opens": (
        policies.ports_have_policies,
        lambda found: _container(found)["ports"].append({"name": "debug", "containerPort": 5678}),
    ),
    "no default": (
        policies.ports_have_policies,
        partial(_without, "NetworkPolicy/default-deny"),
    ),
    "no budget": (
        policies.workloads_drain,
        partial(_without, "PodDisruptionBudget/convlens-server"),
    ),
    "no time to drain": (
        policies.workloads_drain,
        lambda found: _pod(found).update(terminationGracePeriodSeconds=30),
    ),
    "a volume that is not there": (
        policies.references_are_there,
        partial(_without, "PersistentVolumeClaim/convlens-artifacts"),
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_policy_fails_on_planted_breach(planted: str) -> None:
    policy, plant = PLANTED[planted]
    found = manifests("base")
    assert breaches(found, policy) == []
    plant(found)
    assert breaches(found, policy)


def test_every_policy_has_a_planted_breach() -> None:
    assert {policy for policy, _ in PLANTED.values()} == set(policies.POLICIES)


@pytest.mark.parametrize(
    ("combination", "name", "path"),
    [
        ("base", "Deployment/convlens-server", ["spec", "template", "spec", "containres"]),
        ("tests/keda", "ScaledObject/convlens-worker", ["spec", "maxReplicas"]),
        ("tests/monitoring", "ServiceMonitor/convlens-server", ["spec", "endpoint"]),
        ("tests/gateway", "GRPCRoute/convlens", ["spec", "rule"]),
        ("tests/tls", "Certificate/convlens-server", ["spec", "dnsName"]),
    ],
)
def test_schema_fails_on_planted_field(combination: str, name: str, path: list[str]) -> None:
    manifest = next(manifest for manifest in manifests(combination) if named(manifest) == name)
    check_schema(manifest, VERSIONS[0])
    inner = manifest
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = "planted"
    with pytest.raises(Exception, match=path[-1]):
        check_schema(manifest, VERSIONS[0])


def test_monitoring_is_generated_from_its_source() -> None:
    path = KIT / "components" / "monitoring" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, text in generate.generated().items():
        assert (path.parent / name).read_text() == text, f"run python {path}"
    rules = yaml.safe_load((path.parent / "rules.yaml").read_text())
    assert rules["spec"] == yaml.safe_load((KIT.parent / "monitoring" / "alerts.yaml").read_text())
