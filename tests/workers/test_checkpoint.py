"""Checkpoints in the artifact store."""

from __future__ import annotations

import ast
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from convlens.errors import Unavailable
from convlens.v1 import job_pb2
from convlens_workers.checkpoint import (
    DECIDING,
    Origin,
    asked,
    code_digest,
    fingerprint,
    load_state,
    save_state,
)
from convlens_workers.jobs import ArtifactStore
from convlens_workers.techniques.base import State

OPERATION = "0" * 32
ORIGIN = Origin(request="r", model="m", fingerprint=fingerprint(torch.device("cpu")))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path.as_uri())


def state(step: int) -> State:
    rng = torch.Generator().manual_seed(step)
    return {"image": torch.rand(1, 3, 4, 4), "rng": rng.get_state(), "step": torch.tensor(step)}


def path_of(tmp_path: Path, digest: str) -> Path:
    return tmp_path / "operations" / OPERATION / "checkpoints" / digest


def test_a_state_comes_back_bit_for_bit(store: ArtifactStore) -> None:
    saved = state(3)
    loaded = load_state(store, OPERATION, (save_state(store, OPERATION, saved, ORIGIN),), ORIGIN)
    assert loaded is not None
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_values_in_the_same_memory_are_stored_as_two(store: ArtifactStore) -> None:
    one = torch.arange(6.0).reshape(2, 3)
    saved = {"one": one, "again": one, "row": one[1], "turned": one.T, "none": torch.empty(0)}
    loaded = load_state(store, OPERATION, (save_state(store, OPERATION, saved, ORIGIN),), ORIGIN)
    assert loaded is not None
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_older_one(
    damage: str, store: ArtifactStore, tmp_path: Path
) -> None:
    older, newer = (save_state(store, OPERATION, state(step), ORIGIN) for step in (1, 2))
    path = path_of(tmp_path, newer)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + (b"" if damage == "truncated" else bytes([data[-1] ^ 1])))
    loaded = load_state(store, OPERATION, (newer, older), ORIGIN)
    assert loaded is not None
    assert loaded["step"] == 1


@pytest.mark.parametrize("field", ["request", "model", "fingerprint"])
def test_a_checkpoint_from_elsewhere_is_refused(field: str, store: ArtifactStore) -> None:
    digest = save_state(store, OPERATION, state(1), replace(ORIGIN, **{field: "other"}))
    assert load_state(store, OPERATION, (digest,), ORIGIN) is None


def test_no_checkpoint_is_a_new_start(store: ArtifactStore) -> None:
    assert load_state(store, OPERATION, (), ORIGIN) is None


def test_threads_are_part_of_the_fingerprint() -> None:
    threads, before = torch.get_num_threads(), fingerprint(torch.device("cpu"))
    try:
        torch.set_num_threads(threads + 1)
        assert fingerprint(torch.device("cpu")) != before
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A copy of the packages whose code is part of the fingerprint."""
    packages = {name: Path(*import_module(name).__path__) for name in DECIDING}
    folder = tmp_path_factory.mktemp("code")
    for name, source in packages.items():
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "convlens_workers" / "README.md").write_text("What workers are.")
    return {name: folder / name for name in packages}


@pytest.mark.parametrize(
    ("file", "decides"),
    [
        ("convlens_workers/techniques/deepdream.py", True),
        ("convlens_workers/techniques/parts/loop.py", True),
        ("convlens_workers/onnx_network.py", True),
        ("convlens_models/network.py", True),
        ("convlens_models/redirected_relu.py", True),
        ("convlens_models/architectures/vgg.py", True),
        ("convlens_models/graphs/autodiff.py", True),
        ("convlens_models/graphs/normalisation.py", True),
        ("convlens_models/vjp/conv.py", True),
        ("convlens/wire.py", True),
        ("convlens_workers/telemetry/logs.py", False),
        ("convlens_workers/supervisor.py", False),
        ("convlens_workers/README.md", False),
        ("convlens_models/cli.py", False),
    ],
)
def test_code_that_decides_the_bytes_is_part_of_the_fingerprint(
    file: str, decides: bool, code: dict[str, Path]
) -> None:
    package, _, name = file.partition("/")
    path, before = code[package] / name, code_digest(code)
    text = path.read_text()
    path.write_text(text + "\n# changed\n")
    changed = code_digest(code) != before
    path.write_text(text)
    assert changed is decides


def test_whatever_such_code_imports_decides_the_bytes_or_is_known_not_to(code: dict[str, Path]) -> None:
    decide = {path for name, patterns in DECIDING.items() for p in patterns for path in code[name].glob(p)}
    imported, waiting = set(), list(decide)
    while waiting:
        path = waiting.pop()
        if path not in imported and "_pb2" not in path.name:
            imported.add(path)
            waiting += imports(path, code)
    rest = {str(path.relative_to(code["convlens"].parent)) for path in imported - decide}
    assert sorted(rest - CARRIERS) == []


def imports(file: Path, code: dict[str, Path]) -> list[Path]:
    """The modules of ours that a file imports."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    top = code["convlens"].parent
    paths = [top / name.replace(".", "/") for name in names if name.split(".")[0] in code]
    return [path for path in (path.with_suffix(".py") for path in paths) if path.is_file()]


CARRIERS = {
    "convlens/errors.py",
    "convlens/text.py",
    *(f"convlens_models/importing/{name}.py" for name in ("export", "publish", "style_import", "verify")),
    "convlens_models/importing/weights.py",
    *(f"convlens_workers/collections/{name}.py" for name in ("files", "index", "scripts")),
    *(
        f"convlens_workers/jobs/{name}.py"
        for name in ("artifacts", "change_notifier", "connection", "job", "tidying")
    ),
    *(
        f"convlens_workers/jobs/{name}.py"
        for name in ("models", "queries", "record", "redis_errors", "scripts")
    ),
    *(
        f"convlens_workers/jobs/{name}.py"
        for name in ("durability", "settings", "stats", "store", "worker_job_store")
    ),
    *(f"convlens_workers/{name}.py" for name in ("checkpoint", "messages", "parent_death")),
    *(f"convlens_workers/{name}.py" for name in ("retry_proxy", "step_runner", "telemetry/logs")),
    "convlens_workers/telemetry/tracing.py",
}
"""What such code imports that stores, names, reports or moves bytes, and decides none of them."""


def test_a_store_that_cannot_write_says_so_and_keeps_what_it_has(
    store: ArtifactStore, tmp_path: Path
) -> None:
    digest = save_state(store, OPERATION, state(1), ORIGIN)
    folder = path_of(tmp_path, digest).parent
    folder.rename(folder.with_name("kept"))
    folder.touch()
    with pytest.raises(Unavailable, match="artifact store"):
        save_state(store, OPERATION, state(2), ORIGIN)
    folder.unlink()
    folder.with_name("kept").rename(folder)
    assert load_state(store, OPERATION, (digest,), ORIGIN) is not None


def test_what_was_asked_for_is_what_decides_the_result() -> None:
    def digest(**fields: object) -> str:
        dream = {"steps": 3, "octaves": 2, **fields.pop("dream", {})}  # type: ignore[dict-item]
        return asked(job_pb2.SubmitJobRequest(**{"seed": 1, "deepdream": dream, **fields}))  # type: ignore[arg-type]

    for same in (
        {"request_id": "x", "priority": 3, "tags": {"a": "b"}, "resume": "x", "save_every": 2},
        {"dream": {"steps": 4}},
    ):
        assert digest(**same) == digest()
    for other in ({"seed": 2}, {"dream": {"octaves": 3}}, {"dream": {"steps": 4, "frames": 2}}):
        assert digest(**other) != digest()
    assert digest(dream={"frames": 2}) != digest(dream={"frames": 2, "steps": 4})  # They would not all grow.
