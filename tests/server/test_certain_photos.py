"""Photographs of which SqueezeNet is certain to 1e-7 and beyond: gradients and attacks against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convlens.v1 import attack_pb2, image_pb2, model_pb2
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import LOG_PROBABILITIES
from convlens_models.measures.certificate import AttackGoal
from convlens_models.network import Network, load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository
from convlens_server.backends.models import LoadedModels
from convlens_server.backends.providers import Compute
from convlens_server.settings import ServerSettings
from convlens_server.techniques import ATTACKS
from convlens_server.techniques.descent import loss_gradient

PHOTOS = (
    "0017_jay",
    "0090_lorikeet",
    "0120_fiddler_crab",
    "0417_balloon",
    "0510_container_ship",
    "0985_daisy",
)
"""All of the 400 that have 1 - P below 1e-7."""


@pytest.fixture(scope="module")
def backend(data: Path, tmp_path_factory: pytest.TempPathFactory):
    root, models = tmp_path_factory.mktemp("models"), data / "models"
    add_architecture(
        root, "squeezenet1_0", models / "squeezenet1_0.safetensors", models / "imagenet_labels.tsv"
    )
    loaded = LoadedModels(ModelRepository(root), Compute(lambda: 1), ServerSettings(max_models=2))
    yield loaded.get(model_pb2.ModelRef(name="squeezenet1_0"))
    loaded.close()


@pytest.fixture(scope="module")
def photos(data: Path, backend) -> tuple[np.ndarray, np.ndarray]:
    images = [image_pb2.Image(encoded=(data / "photos" / f"{name}.jpg").read_bytes()) for name in PHOTOS]
    pixels = np.stack([to_input(image, backend.stored.manifest) for image in images])
    return pixels, np.array([int(name[:4]) for name in PHOTOS])


@pytest.fixture(scope="module")
def exact(backend) -> Network:
    return load_network(backend.stored).double()


def entropy(network: Network, pixels: torch.Tensor, classes: np.ndarray) -> torch.Tensor:
    """Cross entropies as log(1 + exp(what the other scores together have over the class's)), in float64."""
    scores, own = network(pixels), torch.from_numpy(classes)[:, None]
    others = scores.scatter(1, own, -np.inf).logsumexp(1)
    return (others - scores.gather(1, own)[:, 0]).exp().log1p()


@pytest.fixture(scope="module")
def reference(exact, photos) -> tuple[np.ndarray, np.ndarray]:
    """Cross entropies and their gradients."""
    values, gradients = [], []
    for image, index in zip(*photos, strict=True):
        pixels = torch.from_numpy(image[None]).double().requires_grad_()
        value = entropy(exact, pixels, np.array([index]))
        gradients.append(torch.autograd.grad(value, pixels)[0][0].numpy())
        values.append(float(value.detach()))
    return np.array(values), np.stack(gradients)


def errors(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Relative, in L2, of each photo."""
    flat, reference = (values.reshape(len(values), -1) for values in (found, wanted))
    return np.linalg.norm(flat - reference, axis=1) / np.linalg.norm(reference, axis=1)


def test_the_server_has_value_and_gradient(backend, photos, reference) -> None:
    images, classes = photos
    values, gradients = reference
    assert (values < 1e-7).all()
    found = backend.forward(images, [LOG_PROBABILITIES])[LOG_PROBABILITIES][np.arange(len(classes)), classes]
    np.testing.assert_allclose(-found, values, rtol=1e-4)
    # Of two inputs of a pool that nearly tie float32 may take the other, no matter what comes behind.
    ours = errors(loss_gradient(backend, images, AttackGoal(False, classes)), gradients)
    assert ours.max() < 2e-2, ours
    assert np.median(ours) < 1e-3, ours


def test_so_have_jobs(backend, photos, reference) -> None:
    network = load_network(backend.stored)
    (images, classes), (values, gradients) = photos, reference
    pixels = torch.from_numpy(images).requires_grad_()
    found = network.taps(pixels, [LOG_PROBABILITIES])[LOG_PROBABILITIES][np.arange(len(classes)), classes]
    (gradient,) = torch.autograd.grad(-found.sum(), pixels)
    np.testing.assert_allclose(-found.detach(), values, rtol=1e-4)
    assert errors(gradient.numpy(), gradients).max() < 2e-2


@pytest.mark.parametrize("epsilon", [1 / 255, 2 / 255, 8 / 255])
def test_fgsm_breaks_what_float64_breaks(backend, photos, reference, exact, epsilon) -> None:
    images, classes = photos
    params = attack_pb2.Fgsm(epsilon=epsilon)
    ours = ATTACKS["fgsm"].compute(backend, images, AttackGoal(False, classes), params).adversarial
    theirs = np.clip(images + epsilon * np.sign(reference[1]), 0, 1)
    broken = [wrong(exact, found, classes) for found in (ours, theirs)]
    assert np.array_equal(*broken), broken
    assert broken[0].sum() >= {1: 2, 2: 3, 8: 5}[round(epsilon * 255)]


def wrong(network: Network, images: Any, classes: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found = [int(network(torch.from_numpy(image[None]).double()).argmax()) for image in images]
    return np.array(found) != classes
