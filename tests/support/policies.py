"""What every combination of the kit must keep to. A policy gives a line for each breach.

`restricted` is the Pod Security standard of that name, as far as it concerns what manifests here have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from support.manifests import Manifest, containers, named, pods

Policy = Callable[[list[Manifest]], Iterator[str]]

ALLOWED_VOLUMES = {
    *("configMap", "secret", "projected", "downwardAPI"),
    *("emptyDir", "ephemeral", "persistentVolumeClaim", "csi", "image"),
}
SECRET_NAME = re.compile(r"password|passwd|secret|token|credential|private.?key|access.?key", re.IGNORECASE)
SECRET_TEXT = re.compile(r"://[^/\s:@]*:[^/\s@$]+@|BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}")
LEAST_GRACE = {"convlens-server": 60, "convlens-worker": 120}
"""Seconds."""
NOT_SECRET = re.compile(r"^(/|\$\(|true$|false$|$)")
"""Paths, references and switches."""


def images_are_fixed(manifests: list[Manifest]) -> Iterator[str]:
    """No `latest`, and none without a tag or digest."""
    for workload, template in pods(manifests):
        mounted = [
            volume["image"]["reference"]
            for volume in template["spec"].get("volumes", [])
            if "image" in volume
        ]
        for image in [*(container["image"] for container in containers(template)), *mounted]:
            tag = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and (not tag or tag == "latest"):
                yield f"{named(workload)}: {image} is no fixed version"


def resources_are_bounded(manifests: list[Manifest]) -> Iterator[str]:
    """Requests and limits of CPU, memory and local storage for every container; emptyDirs have a size."""
    for workload, template in pods(manifests):
        for container in containers(template):
            for kind in ("requests", "limits"):
                has = container.get("resources", {}).get(kind, {})
                for what in ("cpu", "memory", "ephemeral-storage"):
                    if what not in has:
                        yield f"{named(workload)}: container {container['name']} has no {kind} of {what}"
        for volume in template["spec"].get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{named(workload)}: emptyDir {volume['name']} has no size"


def containers_are_probed(manifests: list[Manifest]) -> Iterator[str]:
    """Startup, readiness and liveness of every container that stays."""
    for workload, template in pods(manifests):
        for container in template["spec"]["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{named(workload)}: container {container['name']} has no {probe}"


def pods_are_restricted(manifests: list[Manifest]) -> Iterator[str]:
    """Pod Security `restricted`, and beyond it: read-only root, a fixed user, no service account's token."""
    for workload, template in pods(manifests):
        spec, name = template["spec"], named(workload)
        context = spec.get("securityContext", {})
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(field):
                yield f"{name}: {field}"
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{name}: may run as root"
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name}: has no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: mounts a token of its service account"
        if spec.get("serviceAccountName", "default") == "default":
            yield f"{name}: has no service account of its own"
        for volume in spec.get("volumes", []):
            for kind in volume.keys() - {"name"} - ALLOWED_VOLUMES:
                yield f"{name}: volume {volume['name']} is a {kind}"
        for container in containers(template):
            yield from _container_is_restricted(f"{name}: container {container['name']}", container)


def _container_is_restricted(name: str, container: Manifest) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("privileged"):
        yield f"{name} is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{name} may write to its root"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context["capabilities"].get("add"):
        yield f"{name} has capabilities"
    if context.get("runAsNonRoot") is False or context.get("runAsUser") == 0:
        yield f"{name} runs as root"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{name} takes a port of its host"


def namespaces_are_restricted(manifests: list[Manifest]) -> Iterator[str]:
    """The namespace is there, and holds its pods to the standard."""
    spaces = [manifest for manifest in manifests if manifest["kind"] == "Namespace"]
    if not spaces:
        yield "there is no Namespace"
    for space in spaces:
        for mode in ("enforce", "audit", "warn"):
            if space["metadata"].get("labels", {}).get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                yield f"{named(space)} does not {mode} `restricted`"


def secrets_are_elsewhere(manifests: list[Manifest]) -> Iterator[str]:
    """No Secret, no password in a ConfigMap or a URL; and none in an environment, wherever it comes from."""
    for manifest in manifests:
        if manifest["kind"] == "Secret":
            yield f"{named(manifest)} is in plain sight"
        for key, value in manifest.get("data", {}).items():
            if (SECRET_NAME.search(key) and not NOT_SECRET.search(value)) or SECRET_TEXT.search(value):
                yield f"{named(manifest)}: {key} looks like a secret"
    for workload, template in pods(manifests):
        for container in containers(template):
            if any("secretRef" in source for source in container.get("envFrom", [])):
                yield f"{named(workload)}: a whole Secret is in its environment"
            for variable in container.get("env", []):
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    yield f"{named(workload)}: variable {variable['name']} holds a secret"
                name, value = variable["name"], variable.get("value") or ""
                if (SECRET_NAME.search(name) and not NOT_SECRET.search(value)) or SECRET_TEXT.search(value):
                    yield f"{named(workload)}: variable {name} looks like a secret"


def ports_have_policies(manifests: list[Manifest]) -> Iterator[str]:
    """All is denied, and every port of a container is opened by a policy that selects its pod."""
    policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    if not any(
        policy["spec"]["podSelector"] == {}
        and set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        and not {"ingress", "egress"} & policy["spec"].keys()
        for policy in policies
    ):
        yield "nothing is denied by default"
    for workload, template in pods(manifests):
        opened = {
            port.get("port")
            for policy in policies
            if _selects(policy["spec"]["podSelector"], template["metadata"]["labels"])
            for rule in policy["spec"].get("ingress", [])
            for port in rule.get("ports", [])
        }
        for container in containers(template):
            for port in container.get("ports", []):
                if not {port["name"], port["containerPort"]} & opened:
                    yield f"{named(workload)}: no policy opens port {port['name']}"


def workloads_drain(manifests: list[Manifest]) -> Iterator[str]:
    """A disruption budget that lets go of pods that are not ready, and time to end."""
    budgets = [manifest for manifest in manifests if manifest["kind"] == "PodDisruptionBudget"]
    for workload, template in pods(manifests):
        mine = [
            budget
            for budget in budgets
            if _selects(budget["spec"]["selector"], template["metadata"]["labels"])
        ]
        if [budget["spec"].get("unhealthyPodEvictionPolicy") for budget in mine] != ["AlwaysAllow"]:
            yield f"{named(workload)}: no budget that always allows to evict pods that are not ready"
    for workload, template in pods(manifests):
        least = LEAST_GRACE.get(workload["metadata"]["name"], 0)
        if template["spec"].get("terminationGracePeriodSeconds", 30) < least:
            yield f"{named(workload)}: needs {least} s to end"


def references_are_there(manifests: list[Manifest]) -> Iterator[str]:
    """ConfigMaps, claims, service accounts, scale targets and back ends that are named exist."""
    there = {named(manifest) for manifest in manifests}
    for workload, template in pods(manifests):
        spec = template["spec"]
        wanted = [f"ServiceAccount/{spec.get('serviceAccountName')}"]
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                wanted.append(f"ConfigMap/{volume['configMap']['name']}")
            if "persistentVolumeClaim" in volume:
                wanted.append(f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}")
        for container in containers(template):
            names = {volume["name"] for volume in spec.get("volumes", [])}
            names |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in names:
                    yield f"{named(workload)}: there is no volume {mount['name']}"
            wanted += [
                f"ConfigMap/{source['configMapRef']['name']}"
                for source in container.get("envFrom", [])
                if "configMapRef" in source
            ]
        yield from (f"{named(workload)}: there is no {name}" for name in wanted if name not in there)
    for manifest in manifests:
        target = manifest.get("spec", {}).get("scaleTargetRef")
        if target and f"{target.get('kind', 'Deployment')}/{target['name']}" not in there:
            yield f"{named(manifest)}: there is no {target['name']}"


def _selects(selector: Manifest, labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        expression["operator"] == "In" and labels.get(expression["key"]) in expression["values"]
        for expression in selector.get("matchExpressions", [])
    )


POLICIES: tuple[Policy, ...] = (
    images_are_fixed,
    resources_are_bounded,
    containers_are_probed,
    pods_are_restricted,
    namespaces_are_restricted,
    secrets_are_elsewhere,
    ports_have_policies,
    workloads_drain,
    references_are_there,
)
