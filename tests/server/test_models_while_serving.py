"""Models come, change and go while the server serves, and no call notices."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.front_end import FrontEnd
from support.repository import add_copy
from support.server_thread import serving

from convlens.errors import DataLoss, NotFound, PermissionDenied
from convlens.v1 import model_pb2
from convlens_client import Client
from convlens_client.cli import main
from convlens_models.importing.publish import seal
from convlens_models.repository import MANIFEST, WEIGHTS, ModelRepository
from convlens_models.tensors import index
from convlens_server.backends.models import LoadedModels
from convlens_server.backends.providers import Compute
from convlens_server.identity.keys import KeyFile, issue
from convlens_server.settings import ServerSettings


def replace(root: Path, name: str, version: int, bias: float) -> None:
    """Another network in the place of one: two renames, between which there is none."""
    staged, old, place = root / f".staged-{name}", root / f".old-{name}", root / name / str(version)
    manifest = add_copy(staged, name, version)
    folder = staged / name / str(version)
    entry = index(folder / WEIGHTS)["classifier.bias"]
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(entry.offset)
        file.write(np.linspace(0, bias, entry.shape[0], dtype="<f4").tobytes())
    (folder / MANIFEST).write_text(seal(folder, manifest).model_dump_json())
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(old)
    folder.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(staged)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    replace(tmp_path, "copy", 1, 0.5)
    return tmp_path


@pytest.fixture
def served(root: Path) -> Iterator[Client]:
    with serving(models=root, threads=1, lanes=2) as app, Client(app.address) as client:
        yield client


def test_loading_and_unloading(served: Client, root: Path) -> None:
    assert served.loaded_models() == ()
    loaded = served.load_model("copy")
    assert (loaded.name, loaded.version, loaded.sessions) == ("copy", 1, 2)
    assert loaded.bytes > 1e6
    assert served.loaded_models() == (loaded,)
    replace(root, "copy", 2, 0.4)
    assert served.load_model("copy").version == 2
    assert [model.version for model in served.loaded_models()] == [1, 2]
    assert [model.version for model in served.unload_model("copy/1")] == [1]
    assert [model.version for model in served.unload_model("copy")] == [2]
    with pytest.raises(NotFound, match="'copy' is not loaded"):
        served.unload_model("copy")
    with pytest.raises(NotFound, match="no model 'nothing'"):
        served.load_model("nothing")


def test_the_commands(served: Client, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["load", "copy"], ["loaded"], ["unload", "copy"]):
        with pytest.raises(SystemExit) as ended:
            main(["models", *arguments, "--server", served.address])
        assert not ended.value.code
        assert "copy/1" in capsys.readouterr().out


def test_a_backend_goes_on_with_what_it_was_loaded_from(root: Path) -> None:
    """Also what it has not built yet, and when its files are another version's by then, or nobody's."""
    models = LoadedModels(ModelRepository(root), Compute(lambda: 1), ServerSettings(max_models=4))
    image = np.random.default_rng(0).random((1, 3, 96, 96), np.float32)
    ref = model_pb2.ModelRef(name="copy")
    expected = models.get(ref).forward(image, ["classifier"])["classifier"]
    models.unload(ref)
    backend = models.get(ref)
    replace(root, "copy", 1, 9.0)
    other = models.get(ref).forward(image, ["classifier"])["classifier"]
    assert not np.allclose(other, expected, atol=1e-3)
    assert np.array_equal(backend.forward(image, ["classifier"])["classifier"], expected)
    shutil.rmtree(root / "copy" / "1")
    assert np.array_equal(backend.forward(image, ["classifier", "features.conv1"])["classifier"], expected)
    assert len(models.sessions) == 1  # Of the one that is loaded; the other's go when it goes.
    with pytest.raises(NotFound):
        models.get(ref)
    assert len(models.sessions) == 0


def test_a_damaged_model_is_waited_for_only_while_it_is_loaded(root: Path) -> None:
    models = LoadedModels(ModelRepository(root), Compute(lambda: 1), ServerSettings(max_models=4))
    ref = model_pb2.ModelRef(name="copy")
    models.get(ref)
    manifest = root / "copy" / "1" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"{")
    mending = threading.Timer(0.1, manifest.write_bytes, [whole])
    mending.start()
    models.get(ref)
    mending.join()
    manifest.write_bytes(b"{")
    with pytest.raises(DataLoss):
        models.get(ref)
    began = time.monotonic()
    with pytest.raises(DataLoss):
        models.get(ref)
    assert time.monotonic() - began < 0.2


def test_a_version_that_goes_while_it_is_looked_for_is_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelRepository, "_numbers", lambda *_: [2, 1])
    assert ModelRepository(root).get("copy").manifest.version == 1
    monkeypatch.setattr(ModelRepository, "_numbers", lambda *_: [2])
    with pytest.raises(NotFound, match="copy"):
        ModelRepository(root).get("copy")


@contextmanager
def classifying(address: str, models: list[str], threads: int) -> Iterator[list[tuple[str, float]]]:
    """Threads that ask all the while: what they got by model. A call that fails fails the test."""
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    replies: list[tuple[str, float]] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def ask() -> None:
        with Client(address) as client:
            while not stop.is_set():
                for model in models:
                    try:
                        found = client.classify(image, model=model, top_k=1)[0].top.probability
                    except Exception as error:
                        failures.append(error)
                        return
                    replies.append((model, round(found, 6)))

    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asking:
        thread.start()
    try:
        yield replies
    finally:
        stop.set()
        for thread in asking:
            thread.join(30)
    assert not failures


BIASES = (0.5, 3.0, 9.0)


def right_answers(folder: Path) -> set[float]:
    """What a version with each of the biases says."""
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    for version, bias in enumerate(BIASES, 1):
        replace(folder, "copy", version, bias)
    with serving(models=folder, threads=1) as app, Client(app.address) as client:
        return {
            round(client.classify(image, model=f"copy/{version}", top_k=1)[0].top.probability, 6)
            for version in (1, 2, 3)
        }


def churn(client: Client, root: Path, cycle: int) -> None:
    """Version 1 is replaced, another model too; version 2 comes and goes; all is loaded and unloaded."""
    client.load_model("copy/1")  # What is not loaded may be absent while it is replaced.
    replace(root, "copy", 1, BIASES[cycle % 3])
    replace(root, "copy", 2, BIASES[(cycle + 1) % 3])
    client.load_model("copy")
    client.load_model("copy/1")
    client.unload_model("copy/1")
    replace(root, "other", 1, BIASES[cycle % 3])
    shutil.rmtree(root / "copy" / "2")
    client.unload_model("copy/2")


def test_no_call_fails_whatever_happens_to_the_models(tmp_path: Path) -> None:
    right = right_answers(tmp_path / "right")
    assert len(right) == 3
    root = tmp_path / "served"
    root.mkdir()
    replace(root, "copy", 1, 0.5)
    replace(root, "other", 1, 0.5)
    with serving(models=root, threads=1, lanes=2) as app, Client(app.address) as client:
        with classifying(app.address, ["copy/1", "other", "copy"], 3) as replies:
            for cycle in range(6):
                churn(client, root, cycle)
        assert len(replies) > 20
        assert {probability for _, probability in replies} == right
        assert app.executor.admitted == 0


@pytest.mark.slow
def test_memory_stays_level_while_models_come_and_go(tmp_path: Path) -> None:
    root = tmp_path / "served"
    root.mkdir()
    replace(root, "copy", 1, 0.5)
    replace(root, "other", 1, 0.5)
    with (
        FrontEnd(models=root, lanes=2, warm="[]", redis="") as front_end,
        Client(front_end.address) as client,
    ):
        resident = []
        with classifying(front_end.address, ["copy/1", "other", "copy"], 3):
            for cycle in range(80):
                churn(client, root, cycle)
                resident.append(front_end.memory())
        files = psutil.Process(front_end.process.pid).num_fds()
        assert files < 100
        settled, last = np.median(resident[20:35]), np.median(resident[-15:])
        assert last < 1.05 * settled, [size >> 20 for size in resident]


def test_a_stranger_changes_nothing(root: Path, tmp_path: Path) -> None:
    """Without the role there is no administration, whatever the request says."""
    key, kept = issue("blue")
    keys = tmp_path / "keys.json"
    keys.write_text(KeyFile(keys=(kept,)).model_dump_json())
    with serving(models=root, api_keys=keys) as app, Client(app.address, token=key) as client:
        for ask in (
            lambda: client.load_model("copy"),
            lambda: client.unload_model("x"),
            client.loaded_models,
        ):
            with pytest.raises(PermissionDenied, match="role 'admin'"):
                ask()
        assert app.models.loaded() == []
