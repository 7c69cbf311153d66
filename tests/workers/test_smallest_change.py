"""L-BFGS and Carlini & Wagner: against distances worked out by hand, and against Foolbox."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf.message import Message
from scipy.optimize import brentq
from support import techniques
from support.tiny_model import NAME
from torch import Tensor, nn

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2, image_pb2
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import Manifest
from convlens_models.measures.certificate import AttackGoal
from convlens_models.network import Network, load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Results, Step, Task
from convlens_workers.techniques.carlini_wagner import carlini_wagner
from convlens_workers.techniques.lbfgs_attack import following, lbfgs_attack, search
from convlens_workers.techniques.parts.attacks import classifier

Technique = Callable[[Task[Any]], Generator[Step, None, Results]]
SIDE = 16
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def manifest(tiny_models: Path) -> Manifest:
    return ModelRepository(tiny_models).get(NAME).manifest


@pytest.fixture
def linear() -> Network:
    """Five logits, linear in the pixels: the distance to a class is known."""
    torch.manual_seed(3)
    layer = nn.Linear(3 * SIDE**2, 5)
    nn.init.normal_(layer.weight, 0, 0.1)
    return Network(nn.Sequential(nn.Flatten(), layer), (0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def images() -> Tensor:
    """Far from black and white, in 8 bits."""
    noise = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return ((0.3 + 0.4 * noise) * 255).round() / 255


def run(technique: Technique, params: Message, network: Any, manifest: Manifest, images: Tensor) -> Results:
    pictures = {f"images[{i}]": image[None] for i, image in enumerate(images)}
    params.images.extend([image_pb2.Image()] * len(images))
    task = Task(params, network, manifest, pictures, 0, CPU, CollectionFiles("memory:///"))
    steps = begin(technique.__name__, task)
    return techniques.finished(steps)


def lbfgs_params(targets: list[int], **others: Any) -> adversarial_pb2.LbfgsAttack:
    chosen = {"searches": 12, "steps": 60, "initial_constant": 0.01, **others}
    return adversarial_pb2.LbfgsAttack(targets=targets, **chosen)


def cw_params(**others: Any) -> adversarial_pb2.CarliniWagner:
    chosen = {"searches": 5, "steps": 80, "learning_rate": 0.01, "confidence": 0, "initial_constant": 0.1}
    return adversarial_pb2.CarliniWagner(**{**chosen, **others})


def distance(network: Network, image: Tensor, target: int) -> float:
    """The length of the shortest change by which a linear network's logit `target` reaches the largest.

    Of several walls the farthest is a lower bound; it is the distance where its foot lies beyond the others.
    """
    weight, logits = network.module[1].weight.double(), network(image[None]).double()[0]
    others = [i for i in range(len(weight)) if i != target]
    lengths = {i: float((logits[i] - logits[target]) / (weight[i] - weight[target]).norm()) for i in others}
    wall = max(lengths, key=lambda i: lengths[i])
    slope = weight[target] - weight[wall]
    foot = logits + weight @ (slope / slope.norm() * lengths[wall])
    assert foot[target] >= foot.max() - 1e-9
    return lengths[wall]


def far(network: Network, images: Tensor) -> list[int]:
    """For each image the class that only one wall hides, and which is farthest."""
    chosen = []
    for image in images:
        distances = {}
        for target in range(5):
            try:
                distances[target] = distance(network, image, target)
            except AssertionError:
                continue
        chosen.append(max(distances, key=lambda target: distances[target]))
    return chosen


def test_one_search_ends_at_the_minimum_of_its_objective() -> None:
    """Two classes, linear: r lies along w; d/dt (softplus(m - t |w|) + t^2 / c) = 0, solved in float64."""
    torch.manual_seed(0)
    layer = nn.Linear(3 * SIDE**2, 2)
    network = Network(nn.Sequential(nn.Flatten(), layer), (0.0,) * 3, (1.0,) * 3)
    image = torch.full((3, SIDE, SIDE), 0.5)
    weight = layer.weight.double()
    bias = network(image[None]).double()[0]
    target = int(bias.argmin())
    margin, length = float(bias.max() - bias.min()), float((weight[0] - weight[1]).norm())

    def slope(t: float) -> float:
        return -length / (1 + np.exp(t * length - margin)) + 2 * t / 0.7

    adversarial = search(classifier(network), image, AttackGoal(True, np.array([target] * 2)), 0.7, 100)
    assert adversarial.l2 == pytest.approx(brentq(slope, 0, 10), rel=1e-3)


def test_c_grows_until_it_is_enough_and_then_its_interval_is_halved() -> None:
    assert following(0.01, np.inf) == pytest.approx(0.1)
    assert following(0, 0.01) == pytest.approx(0.001)
    assert following(0.1, 10) == pytest.approx(1)


def test_lbfgs_stops_just_behind_the_border(linear: Network, manifest: Manifest, images: Tensor) -> None:
    targets = far(linear, images)
    results = run(lbfgs_attack, lbfgs_params(targets), linear, manifest, images)
    for image, target, certificate in zip(images, targets, results["attack"].certificates, strict=True):
        assert certificate.success
        assert certificate.success_after_encoding
        assert certificate.after.index == target
        shortest = distance(linear, image, target)
        assert shortest * 0.999 < certificate.l2 < shortest * 1.08
        assert certificate.queries > 12
    change = results["adversarial"] - results["original"]
    torch.testing.assert_close(results["perturbation"], (0.5 + 10 * change).clamp(0, 1))
    assert torch.equal(results["original"], images)


def test_lbfgs_stays_within_the_range_of_pixels(linear: Network, manifest: Manifest) -> None:
    extremes = torch.stack([torch.zeros(3, SIDE, SIDE), torch.ones(3, SIDE, SIDE)])
    results = run(lbfgs_attack, lbfgs_params([2], searches=8), linear, manifest, extremes)
    assert results["adversarial"].min() >= 0
    assert results["adversarial"].max() <= 1
    assert all(certificate.success_after_encoding for certificate in results["attack"].certificates)


def test_what_does_not_survive_8_bits_is_not_taken(manifest: Manifest) -> None:
    """Logits so steep that a thousandth of a grey level would do: only whole levels count."""
    weight = torch.zeros(2, 3, SIDE, SIDE)
    weight[1, 0, 0, 0] = 1e5
    layer = nn.Linear(3 * SIDE**2, 2)
    layer.weight, layer.bias = (
        nn.Parameter(weight.flatten(1)),
        nn.Parameter(torch.tensor([0.0, -1e5 * 100.1 / 255])),
    )
    steep = Network(nn.Sequential(nn.Flatten(), layer), (0.0,) * 3, (1.0,) * 3)
    image = torch.full((1, 3, SIDE, SIDE), 100 / 255)
    results = run(lbfgs_attack, lbfgs_params([1]), steep, manifest, image)
    (certificate,) = results["attack"].certificates
    assert certificate.success_after_encoding
    assert certificate.linf * 255 >= 0.499


@pytest.mark.parametrize("confidence", [0, 2])
def test_carlini_wagner_comes_as_near_as_it_can(
    linear: Network, manifest: Manifest, images: Tensor, confidence: float
) -> None:
    targets = far(linear, images)
    params = cw_params(targets=targets, confidence=confidence, searches=7, no_early_stop=True)
    results = run(carlini_wagner, params, linear, manifest, images)
    logits = linear(results["adversarial"])
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        others = np.delete(logits[number].numpy(), target)
        assert logits[number, target] - others.max() >= confidence
        if confidence == 0:
            certificate = results["attack"].certificates[number]
            assert certificate.success
            assert 0.999 < certificate.l2 / distance(linear, image, target) < 1.05


def test_an_early_stop_saves_queries_and_costs_little(
    linear: Network, manifest: Manifest, images: Tensor
) -> None:
    whole, stopped = (
        run(carlini_wagner, cw_params(targets=[2], no_early_stop=not early), linear, manifest, images)
        for early in (False, True)
    )
    for one, other in zip(whole["attack"].certificates, stopped["attack"].certificates, strict=True):
        assert one.queries == 5 * 80
        assert other.queries < one.queries
        assert other.l2 < 1.05 * one.l2


@pytest.mark.parametrize("technique", [lbfgs_attack, carlini_wagner])
def test_targets_are_one_or_one_an_image(
    technique: Technique, linear: Network, manifest: Manifest, images: Tensor
) -> None:
    make = {lbfgs_attack: adversarial_pb2.LbfgsAttack, carlini_wagner: adversarial_pb2.CarliniWagner}[
        technique
    ]
    with pytest.raises(InvalidArgument, match=r"\.targets.*2 items.*3 items, one an image, or one for all"):
        run(technique, make(targets=[1, 2]), linear, manifest, images)


def test_images_of_other_sizes_are_named(linear: Network, manifest: Manifest) -> None:
    params = adversarial_pb2.LbfgsAttack(targets=[1], images=[{}, {}])
    pictures = {"images[0]": torch.zeros(1, 3, 16, 16), "images[1]": torch.zeros(1, 3, 16, 20)}
    task = Task(params, linear, manifest, pictures, 0, CPU, CollectionFiles("memory:///"))
    with pytest.raises(InvalidArgument, match=r"lbfgs_attack\.images\[1\].*20 x 16.*16 x 16"):
        next(begin("lbfgs_attack", task))


def foolbox_l2(network: Network, images: Tensor, classes: Tensor, targeted: bool, params: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`scipy.ndimage.filters` namespace", DeprecationWarning)
        import foolbox

    kind = foolbox.criteria.TargetedMisclassification if targeted else foolbox.criteria.Misclassification
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        params.searches,
        params.steps,
        params.learning_rate,
        params.confidence,
        params.initial_constant,
        abort_early=not params.no_early_stop,
    )
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=CPU)
    theirs, _, met = attack(model, images, kind(classes), epsilons=None)
    assert met.all()
    return torch.linalg.vector_norm((theirs - images).flatten(1), dim=1)


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_wagner_is_as_good_as_foolbox(targeted: bool, manifest: Manifest, images: Tensor) -> None:
    torch.manual_seed(0)
    curved = [
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 5),
    ]
    network = Network(nn.Sequential(*curved), (0.5,) * 3, (0.05,) * 3)
    classes = network(images).argmax(1)
    goal = (classes + 1) % 5 if targeted else classes
    params = cw_params(**{"targets" if targeted else "labels": goal.tolist()})
    ours = run(carlini_wagner, params, network, manifest, images)["attack"].certificates
    theirs = foolbox_l2(network, images, goal, targeted, params)
    assert all(one.success for one in ours)
    assert np.mean([one.l2 for one in ours]) <= 1.05 * theirs.mean()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_carlini_wagner_is_as_good_as_foolbox_on_photographs(data: Path, tmp_path: Path) -> None:
    models = data / "models"
    add_architecture(
        tmp_path, "squeezenet1_0", models / "squeezenet1_0.safetensors", models / "imagenet_labels.tsv"
    )
    stored = ModelRepository(tmp_path).get("squeezenet1_0")
    network = load_network(stored)
    photos = sorted((data / "photos").iterdir())[::200]
    images = torch.stack(
        [torch.tensor(to_input(image_pb2.Image(encoded=p.read_bytes()), stored.manifest)) for p in photos]
    )
    classes = network(images).argmax(1)
    params = cw_params(
        labels=classes.tolist(), searches=2, steps=40, initial_constant=0.3, no_early_stop=True
    )
    ours = run(carlini_wagner, params, network, stored.manifest, images)["attack"].certificates
    theirs = foolbox_l2(network, images, classes, False, params)
    assert all(one.success for one in ours)
    assert np.mean([one.l2 for one in ours]) <= 1.05 * theirs.mean()
