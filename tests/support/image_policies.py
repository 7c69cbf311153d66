"""What the Dockerfile and the Compose files must keep to: each policy yields what breaks it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from support.dockerfile import Dockerfile

PINNED = re.compile(r"[a-z0-9./-]+:(?!latest)[\w.-]+@sha256:[0-9a-f]{64}")
OURS = re.compile(r"convlens-[a-z-]+:\$\{CONVLENS_VERSION:-\d+\.\d+\.\d+\}")
SECRET = re.compile(r"pass(word)?|secret|token|credential|private|_key", re.IGNORECASE)
WITH_PASSWORD = re.compile(r"://[^/\s]*:[^/\s]+@")
LABELS = ("title", "description", "version", "revision", "licenses", "vendor", "documentation")
TARGETS = ("server", "server-cuda", "worker-cpu", "worker-cuda")


def bases_are_pinned(dockerfile: Dockerfile) -> Iterator[str]:
    yield from (f"{image} is not pinned" for image in dockerfile.images() if not PINNED.fullmatch(image))


def installs_are_hashed(dockerfile: Dockerfile) -> Iterator[str]:
    for stage in dockerfile.stages.values():
        for each in stage.instructions:
            if each.verb == "ADD":
                yield f"{stage.name}: ADD takes what no digest checks"
            for command in each.text.split("&&") if each.verb == "RUN" else ():
                if "pip" in command and " install " in command:
                    if "--require-hashes" not in command and "--no-index" not in command:
                        yield f"{stage.name}: {command.strip()} checks no hashes"
                elif re.search(r"\b(curl|wget|apt-get|git)\b", command):
                    yield f"{stage.name}: {command.strip()} takes what no digest checks"


def images_run_as_a_fixed_user(dockerfile: Dockerfile) -> Iterator[str]:
    for target in TARGETS:
        users = [each.text for each in dockerfile.instructions(target) if each.verb == "USER"]
        if users[-1:] != ["10001:10001"]:
            yield f"{target}: runs as {users[-1:]}"


def images_tell_how_they_are_and_stop(dockerfile: Dockerfile) -> Iterator[str]:
    for target in TARGETS:
        verbs = [each.verb for each in dockerfile.instructions(target)]
        yield from (
            f"{target}: no {verb}"
            for verb in ("HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT")
            if verb not in verbs
        )


def images_are_labelled(dockerfile: Dockerfile) -> Iterator[str]:
    for target in TARGETS:
        labels = dockerfile.labels(target)
        names = [f"org.opencontainers.image.{name}" for name in LABELS]
        yield from (f"{target}: no label {name}" for name in names if not labels.get(name))


def images_hold_no_secret(dockerfile: Dockerfile) -> Iterator[str]:
    for stage in dockerfile.stages.values():
        for name in dockerfile.environment(stage.name) | dockerfile.labels(stage.name):
            if SECRET.search(name):
                yield f"{stage.name}: {name} looks like a secret"


DOCKERFILE = (
    bases_are_pinned,
    installs_are_hashed,
    images_run_as_a_fixed_user,
    images_tell_how_they_are_and_stop,
    images_are_labelled,
    images_hold_no_secret,
)


def _services(compose: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from compose["services"].items()


def services_have_pinned_images(compose: dict[str, Any]) -> Iterator[str]:
    for name, service in _services(compose):
        image = service.get("image", "")
        if not (OURS if "build" in service else PINNED).fullmatch(image):
            yield f"{name}: {image} is not pinned"


def services_show_no_secret(compose: dict[str, Any]) -> Iterator[str]:
    """Secrets come as files; a variable may name such a file."""
    for name, service in _services(compose):
        for variable, value in service.get("environment", {}).items():
            if WITH_PASSWORD.search(value) or (
                SECRET.search(variable) and not value.startswith("/run/secrets")
            ):
                yield f"{name}: {variable} shows a secret"
        if SECRET.search(" ".join(service.get("command", []))):
            yield f"{name}: its command shows a secret"
    for name, secret in compose["secrets"].items():
        if not str(secret.get("file", "")).startswith("./secrets/"):
            yield f"{name} is no file in secrets/"


def services_are_looked_after(compose: dict[str, Any]) -> Iterator[str]:
    for name, service in _services(compose):
        if not service.get("healthcheck", {}).get("test") or service["healthcheck"].get("disable"):
            yield f"{name}: no health check"
        if service.get("restart") != "unless-stopped":
            yield f"{name}: is not started again"
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        yield from (
            f"{name}: no limit of {what}" for what in ("cpus", "memory", "pids") if what not in limits
        )
        if "max-size" not in service.get("logging", {}).get("options", {}):
            yield f"{name}: its log grows for ever"


def services_are_confined(compose: dict[str, Any]) -> Iterator[str]:
    for name, service in _services(compose):
        if not service.get("read_only"):
            yield f"{name}: its root can be written to"
        if service.get("cap_drop") != ["ALL"] or "cap_add" in service or service.get("privileged"):
            yield f"{name}: has capabilities"
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{name}: may gain privileges"
        if not re.fullmatch(r"[1-9]\d*:\d+", service.get("user", "")):
            yield f"{name}: runs as root or as nobody knows whom"


def ports_are_published_to_this_host_alone(compose: dict[str, Any]) -> Iterator[str]:
    """But for what is asked for by its profile, and has a certificate."""
    for name, service in _services(compose):
        secrets = {each["target"] for each in service.get("secrets", []) if isinstance(each, dict)}
        is_public = service.get("profiles") == ["public"] and "/etc/envoy/tls/tls.key" in secrets
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:") and not is_public:
                yield f"{name}: {port} can be reached from anywhere"
        if name in {"redis", "prometheus"} and "front" in service["networks"]:
            yield f"{name}: is in the network of published ports"
    for name in ("jobs", "watch"):
        if not compose["networks"][name].get("internal"):
            yield f"the network {name} leads outside"


COMPOSE = (
    services_have_pinned_images,
    services_show_no_secret,
    services_are_looked_after,
    services_are_confined,
    ports_are_published_to_this_host_alone,
)
