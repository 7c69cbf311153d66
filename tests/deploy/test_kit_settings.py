"""The kit's settings are those that the processes read, and fit the limits of their containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.manifests import COMBINATIONS, containers, manifests, named, pods

from convlens_server.settings import ServerSettings
from convlens_workers.settings import WorkerSettings


def test_settings_are_those_of_server_and_worker() -> None:
    """Each variable of the kit is one that the process reads, with a value that it takes."""
    everything = ("tests/everything-on-cpu", "tests/everything-on-slices", "tests/s3-and-external-redis")
    for combination in ("base", "overlays/dev", *everything):
        found = manifests(combination)
        data = {named(manifest): manifest["data"] for manifest in found if manifest["kind"] == "ConfigMap"}
        for workload, template in pods(found):
            settings = {"convlens-server": ServerSettings, "convlens-worker": WorkerSettings}.get(
                workload["metadata"]["name"]
            )
            if settings is None:
                continue
            (container,) = template["spec"]["containers"]
            given: dict[str, str] = {}
            for source in container["envFrom"]:
                given |= data[f"ConfigMap/{source['configMapRef']['name']}"]
            folder = given.pop("CONVLENS_SECRETS")
            ours = {name for name in given if name.startswith("CONVLENS_")}
            known = {f"CONVLENS_{name.upper()}" for name in settings.model_fields}
            assert ours <= known, combination
            secret = {name.upper() for name in _files(template, folder)}
            assert "CONVLENS_REDIS" in secret
            assert secret <= known | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}, combination
            with pytest.MonkeyPatch.context() as patch:
                for name in ours:
                    patch.setenv(name, given[name])
                settings()


def test_memory_has_room_for_what_calls_may_take() -> None:
    """A call there and back on SqueezeNet in every lane, as docs/guides/sizing.md adds it up."""
    found = manifests("base")
    (data,) = (each["data"] for each in found if named(each).startswith("ConfigMap/convlens-server"))
    (server,) = (each for each in found if named(each) == "Deployment/convlens-server")
    limits = server["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    lanes, pixels = int(limits["cpu"]), int(data["CONVLENS_MAX_BATCH_PIXELS"])
    settings = ServerSettings.model_fields
    held = 300 + settings["session_megabytes"].default + settings["max_waiting_megabytes"].default
    assert (held << 20) + lanes * pixels * 1640 < int(limits["memory"].removesuffix("Gi")) << 30


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_workers_have_as_many_threads_as_cpus(combination: str) -> None:
    """PyTorch knows of no limits, and a checkpoint fits the number of threads that it was made with."""
    found = manifests(combination)
    (worker,) = (each for each in found if named(each) == "Deployment/convlens-worker")
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    (source,) = (each for each in container["envFrom"] if "convlens-worker" in each["configMapRef"]["name"])
    name = f"ConfigMap/{source['configMapRef']['name']}"
    (data,) = (each["data"] for each in found if named(each) == name)
    assert data["OMP_NUM_THREADS"] == container["resources"]["limits"]["cpu"]


def _files(template: Any, folder: str) -> Iterator[str]:
    """Names of the files of Secrets that are mounted there."""
    (container,) = template["spec"]["containers"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == folder)
    (volume,) = (volume for volume in template["spec"]["volumes"] if volume["name"] == mount["name"])
    for source in volume["projected"]["sources"]:
        yield from (item["path"] for item in source["secret"]["items"])


def test_times_to_drain_fit_into_the_grace_period() -> None:
    found = manifests("base")
    data = {manifest["metadata"]["name"]: manifest["data"] for manifest in found if "data" in manifest}
    for workload, template in pods(found):
        for container in containers(template):
            for source in container.get("envFrom", []):
                wait = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                grace = int(data[source["configMapRef"]["name"]]["CONVLENS_GRACE"])
                assert wait + grace < template["spec"]["terminationGracePeriodSeconds"], named(workload)
