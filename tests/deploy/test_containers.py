"""The images: their Dockerfile, their locks, and their own commands run in clean root folders."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.chroot import Chroots, debian, needs_chroots, needs_python
from support.dockerfile import parse, read
from support.image_policies import DOCKERFILE, TARGETS
from support.redis_server import RedisServer, free_port

from convlens_client import Client

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy/containers/Dockerfile"
LOCKS = ROOT / "deploy/locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "server": {"server", "otel", "search", "maps"},
    "server-cuda": {"gpu", "otel", "search", "maps"},
    "worker-cpu": {"worker", "otel"},
    "worker-cuda": {"worker", "otel"},
}
SMALL = ("server", "worker-cpu")
"""Those that are built and run here; the others hold some gigabytes of CUDA."""


@pytest.mark.parametrize("policy", DOCKERFILE, ids=lambda policy: policy.__name__)
def test_the_dockerfile_keeps_each_policy(policy):
    assert list(policy(read(FILE))) == []


PLANTED = {
    "bases_are_pinned": (r"@sha256:[0-9a-f]{64}", ""),
    "installs_are_hashed": (r"--require-hashes ", ""),
    "images_run_as_a_fixed_user": (r"USER 10001:10001", "USER root"),
    "images_tell_how_they_are_and_stop": (r"HEALTHCHECK(.|\n)*?\n    CMD .*", ""),
    "images_are_labelled": (r'title="convlens-server"', 'name="x"'),
    "images_hold_no_secret": (r"NVIDIA_VISIBLE_DEVICES=all", "CONVLENS_TOKEN=clk_1"),
}


@pytest.mark.parametrize("policy", DOCKERFILE, ids=lambda policy: policy.__name__)
def test_each_policy_sees_a_planted_violation(policy):
    pattern, instead = PLANTED[policy.__name__]
    planted, count = re.subn(pattern, instead, FILE.read_text())
    assert count
    assert list(policy(parse(planted)))


def test_hadolint_agrees(tmp_path):
    command = [Path(sys.executable).with_name("hadolint"), FILE]
    assert subprocess.run(command, check=False).returncode == 0
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN pip install numpy\n")
    assert subprocess.run([command[0], tmp_path / "Dockerfile"], check=False).returncode == 1


def test_stages_are_used():
    """Every stage leads to an image."""
    dockerfile = read(FILE)
    used = {stage.name for target in TARGETS for stage in dockerfile.chain(target)}
    copied = re.findall(r"--from=(\S+)", FILE.read_text())
    used |= {stage.name for name in copied for stage in dockerfile.chain(name)}
    assert used == set(dockerfile.stages)


def test_all_that_is_copied_is_in_the_context():
    kept = {line[1:] for line in Path(f"{FILE}.dockerignore").read_text().splitlines() if line[0] == "!"}
    for stage in read(FILE).stages.values():
        for each in stage.instructions:
            if each.verb == "COPY" and "--from" not in each.text:
                for source in each.words()[:-1]:
                    assert (ROOT / source).exists()
                    assert any(source == name or source.startswith(f"{name}/") for name in kept), source


def locked(target: str) -> dict[str, str]:
    """The versions in a lock file, by name."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (LOCKS / f"{target}.txt").read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def wanted(extras: set[str]) -> Iterator[Requirement]:
    """What pyproject.toml asks for, with the extras of extras."""
    texts = [
        *PROJECT["dependencies"],
        *(text for each in extras for text in PROJECT["optional-dependencies"][each]),
    ]
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            yield from wanted(requirement.extras)
        else:
            yield requirement


def unmet(target: str, versions: dict[str, str]) -> set[str]:
    """Requirements of a target that its lock does not meet."""
    return {
        str(requirement)
        for requirement in wanted(EXTRAS[target])
        if not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0"))
    }


@pytest.mark.parametrize("target", TARGETS)
def test_locks_meet_what_the_project_asks_for(target):
    versions = locked(target)
    assert unmet(target, versions) == set()
    assert unmet(target, versions | {"grpcio": "1.0"}) == {"grpcio>=1.80"}


@pytest.mark.parametrize("target", [*TARGETS, "build"])
def test_every_locked_package_has_hashes(target):
    text = (LOCKS / f"{target}.txt").read_text()
    requirements = re.split(r"\n(?=[a-z0-9])", text.partition("\n#    make locks\n")[2])
    assert len(requirements) == len(locked(target)) > 10
    assert all("--hash=sha256:" in each for each in requirements)


def test_builds_need_what_the_project_says():
    asked = {line for line in (LOCKS / "build.in").read_text().splitlines() if line[0] != "#"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["build-system"]["requires"]) < asked


def test_what_the_images_hold():
    server, cuda = locked("server"), locked("server-cuda")
    assert "torch" not in server
    assert "torch" not in cuda
    assert "onnxruntime-gpu" in cuda
    assert "onnxruntime" not in cuda, "both write the same folder"
    assert locked("worker-cpu")["torch"] == "2.13.0+cpu"
    assert not [name for name in locked("worker-cpu") if name.startswith("nvidia")]
    assert locked("worker-cuda")["torch"] == "2.13.0"


def listed(sbom: str) -> dict[str, str]:
    components = json.loads(sbom)["components"]
    return {canonicalize_name(each["name"]): each["version"] for each in components}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_sbom_lists_every_locked_package(target, tmp_path):
    made = tmp_path / "sbom.json"
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "-o", made, LOCKS / f"{target}.txt"]
    subprocess.run(command, check=True, capture_output=True)
    assert listed(made.read_text()) == locked(target)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not one of pytest's folders, which other users cannot enter."""
    needs_chroots()
    folder = Path(tempfile.mkdtemp(prefix="convlens-chroots-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def chroots(folder: Path) -> Chroots:
    """The images, made by their own commands."""
    dockerfile = read(FILE)
    (image,) = dockerfile.images()
    needs_python(re.search(r"python:(\d+\.\d+)", image)[1])
    # Where the PyTorch of this environment comes from, if not from its own page.
    links = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    (folder / "machine").mkdir()
    return Chroots(folder / "machine", dockerfile, ROOT, {"TORCH_CPU": links} if links else {})


@pytest.fixture
def chroots_in_debian(folder: Path) -> Chroots:
    """The same on a Debian of their own, of which nothing is this machine's."""
    system = debian(folder / "debian")
    (folder / "chroot").mkdir()
    return Chroots(folder / "chroot", read(FILE), ROOT, {}, system)


@pytest.fixture
def state(chroots: Chroots) -> Iterator[Path]:
    """A volume for /var/lib/convlens."""
    with volume(chroots) as place:
        yield place


@contextmanager
def volume(chroots: Chroots) -> Iterator[Path]:
    """As an engine makes it: with what the image has there."""
    with tempfile.TemporaryDirectory(prefix="convlens-state-") as folder:
        subprocess.run(["cp", "--archive", chroots.root("runtime") / "var/lib/convlens", folder], check=True)
        Path(folder).chmod(0o755)
        yield Path(folder) / "convlens"


class Container:
    """`docker run --read-only --volume STATE:/var/lib/convlens --env ... IMAGE`."""

    def __init__(self, chroots: Chroots, target: str, state: Path, **environment: str) -> None:
        self._chroots, self._target, self._dockerfile = chroots, target, read(FILE)
        self.environment = {f"CONVLENS_{name}": value for name, value in environment.items()}
        entry = self._dockerfile.last(target, "ENTRYPOINT").command()
        volumes = {"/var/lib/convlens": state}
        self._process = chroots.start(target, entry, self.environment, volumes)

    def is_healthy(self) -> bool:
        test = self._dockerfile.last(self._target, "HEALTHCHECK").command()
        return self._chroots.call(self._target, test, self.environment).returncode == 0

    def wait(self, seconds: float = 120.0) -> None:
        until = time.monotonic() + seconds
        while not self.is_healthy():
            assert self._process.poll() is None, f"{self._target} has ended: {self._process.returncode}"
            assert time.monotonic() < until, f"{self._target} is not healthy"
            time.sleep(0.5)

    def stop(self) -> int:
        self._process.send_signal(getattr(signal, self._dockerfile.last(self._target, "STOPSIGNAL").text))
        return self._process.wait(60)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def server(chroots: Chroots, state: Path, **environment: str) -> Container:
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("LISTEN", "HEALTH_LISTEN", "METRICS_LISTEN")}
    return Container(chroots, "server", state, **addresses, **environment)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("target", SMALL)
def test_an_image_holds_its_lock_and_no_more(chroots, target):
    there = listed((chroots.root(target) / "app/sbom.cdx.json").read_text())
    assert there == locked(target) | {"convlens": PROJECT["version"]}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("target", SMALL)
def test_an_image_runs_as_its_user_on_a_read_only_root(chroots, target):
    assert chroots.call(target, ["id", "-u"]).stdout == "10001\n"
    for place in ("/x", "/app/x", "/etc/x", "/var/lib/convlens/x"):
        assert "Read-only file system" in chroots.call(target, ["touch", place]).stdout
    assert chroots.call(target, ["touch", "/tmp/x"]).returncode == 0
    assert not (chroots.root(target) / "src").exists(), "sources do not belong into an image"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_server_image_serves(chroots, state):
    check_server(chroots, state)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_server_image_serves_on_a_debian_of_its_own(chroots_in_debian):
    with volume(chroots_in_debian) as place:
        check_server(chroots_in_debian, place)


def check_server(chroots: Chroots, state: Path) -> None:
    """It is without torch, refuses to be open to all, is healthy, classifies, and ends when it is told to."""
    assert "No module named 'torch'" in chroots.call("server", ["python", "-c", "import torch"]).stdout
    refused = chroots.call("server", ["convlens-server"])
    assert refused.returncode == 1, "without credentials it serves this machine alone"
    assert "configure who may call" in refused.stdout
    with server(chroots, state, REDIS="") as container:
        container.wait()
        with Client(container.environment["CONVLENS_LISTEN"]) as client:
            picture = next((ROOT / "docs/images").glob("*.jpg"))
            (answer,) = client.classify(picture)
            assert 0 < answer.top.probability <= 1
        assert container.stop() == 0
        assert not container.is_healthy()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_server_and_worker_images_do_a_job_together(chroots, state, redis_server: RedisServer):
    picture = next((ROOT / "docs/images").glob("*.jpg"))
    metrics = f"127.0.0.1:{free_port()}"
    worker = Container(chroots, "worker-cpu", state, REDIS=redis_server.url, METRICS_LISTEN=metrics)
    with server(chroots, state, REDIS=redis_server.url) as front, worker:
        front.wait()
        worker.wait()
        with Client(front.environment["CONVLENS_LISTEN"]) as client:
            operation = client.deepdream(picture, octaves=1, steps=2, resize=64)
            assert operation.wait(timeout=120).state == "SUCCEEDED"
        assert worker.stop() == 0
        assert not worker.is_healthy()
