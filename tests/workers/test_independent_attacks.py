"""Long attacks on a network of independent classes: met where the class's probability crosses one half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf.message import Message
from support import techniques
from support.foreign_onnx import classifier, constant, save
from torch import Tensor

from convlens.v1 import adversarial_pb2, image_pb2
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.measures.certificate import through_png
from convlens_models.repository import ModelRepository, StoredModel
from convlens_models.runtime import ort
from convlens_workers.collections import CollectionFiles
from convlens_workers.onnx_network import OnnxNetwork
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Results, Task

SIDE = 16
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("independent")
    model = classifier(end="Sigmoid", size=("N", 3, SIDE, SIDE))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
    bias.CopyFrom(constant("fc.bias", np.float32([0, -1, 0.2, -0.5, 0])))  # Some are seen, and some not.
    path = save(model, folder)
    add_onnx(folder / "models", path, "many", mean=(0, 0, 0), std=(1, 1, 1))
    return folder


@pytest.fixture(scope="module")
def stored(folder: Path) -> StoredModel:
    return ModelRepository(folder / "models").get("many")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(3).random((2, 3, SIDE, SIDE), np.float32)


def of_file(folder: Path, images: np.ndarray | Tensor) -> np.ndarray:
    """The probabilities that the file gives."""
    session = ort.InferenceSession(str(folder / "foreign.onnx"))
    return session.run(None, {"data": np.asarray(images, np.float32)})[0]


def run(params: Message, stored: StoredModel, images: np.ndarray, technique: str) -> Results:
    for field in ("images", "held_out"):
        if field in params.DESCRIPTOR.fields_by_name:
            getattr(params, field).extend([image_pb2.Image()] * len(images))
    pictures = {
        f"{field}[{i}]": torch.from_numpy(image[None])
        for field in ("images", "held_out")
        for i, image in enumerate(images)
    }
    task: Task[Any] = Task(
        params, OnnxNetwork(stored), stored.manifest, pictures, 0, torch.device("cpu"),
        CollectionFiles("memory:///"),
    )  # fmt: skip
    return techniques.finished(begin(technique, task))


GOALS = {
    "carlini_wagner, away": ("carlini_wagner", False),
    "carlini_wagner, towards": ("carlini_wagner", True),
    "lbfgs_attack": ("lbfgs_attack", True),
}


@pytest.mark.parametrize("case", GOALS)
def test_the_smallest_change_takes_the_probability_across_one_half(
    case: str, folder: Path, stored: StoredModel, images: np.ndarray
):
    technique, targeted = GOALS[case]
    before = of_file(folder, images)
    classes = (before.argmin(1) if targeted else before.argmax(1)).tolist()
    chosen = {"targets": classes} if targeted else {"labels": classes}
    if technique == "lbfgs_attack":
        params = adversarial_pb2.LbfgsAttack(searches=8, steps=30, initial_constant=0.1, **chosen)
    else:
        params = adversarial_pb2.CarliniWagner(
            searches=4, steps=30, learning_rate=0.05, confidence=0, initial_constant=30, **chosen
        )
    results = run(params, stored, images, technique)
    rows = np.arange(len(images))
    own = of_file(folder, results["adversarial"])[rows, classes]
    certificates = results["attack"].certificates
    assert ((before[rows, classes] > 0.5) != targeted).all()
    assert ((own > 0.5) == targeted).all()
    np.testing.assert_allclose(own, 0.5, atol=0.05)  # No farther than it must.
    assert [c.success for c in certificates] == [True] * len(images)
    np.testing.assert_allclose([c.after.probability for c in certificates], own, rtol=1e-4)
    encoded = of_file(folder, through_png(np.asarray(results["adversarial"], np.float32)))[rows, classes]
    assert [c.success_after_encoding for c in certificates] == ((encoded > 0.5) == targeted).tolist()


def test_accuracies_behind_a_defence_are_those_of_the_labels(
    folder: Path, stored: StoredModel, images: np.ndarray
):
    labels = of_file(folder, images).argmax(1).tolist()
    params = adversarial_pb2.DefenceAttack(labels=labels, steps=3, epsilon=0.2)
    params.defence.bit_depth.bits = 8
    results = run(params, stored, images, "defence_attack")
    plain = of_file(folder, results["plain"])[np.arange(2), labels]
    assert results["defence"].undefended_accuracy == pytest.approx((plain > 0.5).mean())


def test_a_patch_is_judged_on_pictures_that_are_not_of_its_target(
    folder: Path, stored: StoredModel, images: np.ndarray
):
    seen = of_file(folder, images) > 0.5
    for target in (int(seen.all(0).argmax()), int(seen.any(0).argmin())):
        params = adversarial_pb2.AdversarialPatch(
            target=target, steps=1, samples=2, size=0.3, learning_rate=0.1
        )
        report = run(params, stored, images, "adversarial_patch")["patch"]
        assert report.placements == 4 * int((~seen[:, target]).sum())
    assert seen.all(0).any()
    assert not seen.any(0).all()
