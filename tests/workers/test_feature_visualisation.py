"""Feature visualisation on a small network, and its parts against formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support import techniques
from support.tiny_model import NAME
from torch import Tensor, nn

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_models.network import Network, load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Step, Task
from convlens_workers.techniques.parts import objectives
from convlens_workers.techniques.parts.camera import GREY
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.losses import likeness
from convlens_workers.techniques.parts.parametrisation import COLOURS, along_colours, fourier_picture
from convlens_workers.techniques.parts.transforms import robust, scale_and_rotate

LAYER = "features.relu3_1"


def objective(**targets: dict[str, object]) -> job_pb2.Objective:
    return job_pb2.Objective(
        terms=[{"target": {name: value}, "weight": 1} for name, value in targets.items()]
    )


def make_task(models: Path, *wanted: job_pb2.Objective, **params: object) -> Task:
    stored = ModelRepository(models).get(NAME)
    defaults = {"variants": 1, "size": 48, "steps": 24, "diversity": 1, "decay": 1e-4, "blur_every": 4}
    message = job_pb2.FeatureVisualisation(objectives=wanted, **(defaults | params))
    files = CollectionFiles("memory:///")
    return Task(message, load_network(stored), stored.manifest, {}, 0, torch.device("cpu"), files)


def run(task: Task) -> tuple[list[Step], dict[str, Tensor]]:
    return techniques.run(begin("feature_visualisation", task))


@pytest.mark.parametrize("kind", [job_pb2.PARAMETRISATION_FOURIER, job_pb2.PARAMETRISATION_PIXELS])
def test_each_objective_is_far_above_its_value_on_photographs_of_noise(tiny_models: Path, kind: int) -> None:
    wanted = objective(channel={"layer": LAYER, "channel": 3}), objective(class_score={"index": 2})
    task = make_task(tiny_models, *wanted, parametrisation=kind, steps=40)
    _, results = run(task)
    noise = fourier_picture(torch.randn(32, 3, 48, 25, 2, generator=generator(1)) * 0.01, 48)
    for value, item in zip(results["values"], wanted, strict=True):
        terms = objectives.terms(item, task.manifest, "objective")
        usual = objectives.total(terms, task.network.taps(noise, [term.layer for term in terms]))
        assert value > usual.mean() + 3 * usual.std()
    assert results["images"].std() > 0.01


def test_pixels_go_along_the_gradient_of_decorrelated_colours() -> None:
    """x = C z: where x goes if z takes a step along its gradient, C written down from lucid's table."""
    colours = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float64)
    colours = colours / colours.norm(dim=0).max()
    z = torch.rand(1, 3, 4, 5, dtype=torch.float64, generator=generator(0)).requires_grad_()
    x = torch.einsum("rc,nchw->nrhw", colours, z)
    wanted, pixels = torch.autograd.grad((x**3).sum(), (z, x))
    moved = torch.einsum("rc,nchw->nrhw", colours, wanted)
    torch.testing.assert_close(along_colours(pixels), moved, rtol=1e-6, atol=0)
    grey, magenta = torch.ones(1, 3, 1, 1), torch.tensor([1.0, -2.0, 1.0]).view(1, 3, 1, 1)
    lengths = [float(along_colours(one).norm() / one.norm()) for one in (grey, magenta)]
    assert lengths[1] < 0.1 * lengths[0]


def test_targets_read_what_they_say(tiny_models: Path) -> None:
    task, vector = make_task(tiny_models), np.linspace(-1, 1, 64, dtype=np.float32)
    images = torch.rand(2, 3, 48, 48, generator=generator(0))
    value, logits = task.network.taps(images, [LAYER, "classifier"]).values()
    expected = {
        "class_score": ({"index": 2}, logits[:, 2]),
        "log_probability": ({"index": 2}, logits.log_softmax(1)[:, 2]),
        "channel": ({"layer": LAYER, "channel": 5}, value[:, 5].mean((1, 2))),
        "neuron": ({"layer": LAYER, "channel": 5, "y": 2, "x": 3}, value[:, 5, 2, 3]),
        "direction": (
            {"layer": LAYER, "vector": wire.to_tensor(vector)},
            (value * torch.from_numpy(vector).view(1, -1, 1, 1)).sum(1).mean((1, 2)),
        ),
    }
    for name, (target, wanted) in expected.items():
        terms = objectives.terms(objective(**{name: target}), task.manifest, "objective")
        found = objectives.total(terms, task.network.taps(images, [terms[0].layer]))
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({"class_score": {}}, "class_score.index"),
        ({"channel": {"layer": LAYER, "channel": 64}}, "channel.channel"),
        ({"neuron": {"layer": LAYER, "channel": 1, "y": 99}}, "neuron.y"),
        ({"neuron": {"layer": "nothing"}}, "neuron.layer"),
        ({"direction": {"layer": LAYER, "vector": wire.to_tensor(np.ones(3, np.float32))}}, "vector"),
        ({"direction": {"layer": LAYER, "vector": wire.to_tensor(np.zeros(64, np.float32))}}, "vector"),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    tiny_models: Path, target: dict[str, dict[str, object]], field: str
) -> None:
    with pytest.raises(InvalidArgument, match=rf"objectives\[0\]\.terms\[0\]\.target.*{field}"):
        run(make_task(tiny_models, objective(**target)))


def test_variants_differ_more_with_diversity(tiny_models: Path) -> None:
    def alike(diversity: float) -> float:
        wanted = objective(channel={"layer": LAYER, "channel": 3})
        task = make_task(tiny_models, wanted, variants=3, diversity=diversity)
        images = run(task)[1]["images"]
        return float(likeness(task.network.taps(images, [LAYER])[LAYER]))

    assert alike(10) < alike(0)


def test_fourier_pictures_are_lucids(tiny_models: Path) -> None:
    """Against the formula in float64 by NumPy."""
    spectrum = torch.randn(1, 3, 6, 5, 2, generator=generator(0))
    frequency = np.hypot(np.fft.fftfreq(6)[:, None], np.fft.rfftfreq(8))
    values = spectrum[0].double().numpy()
    scaled = (values[..., 0] + 1j * values[..., 1]) / np.maximum(frequency, 1 / 8)
    plane = np.fft.irfft2(scaled, s=(6, 8), norm="ortho") / 4
    colours = np.asarray(COLOURS) / np.linalg.norm(COLOURS, axis=0).max()
    expected = 1 / (1 + np.exp(-np.einsum("rc,chw->rhw", colours, plane)))
    np.testing.assert_allclose(fourier_picture(spectrum, 8)[0], expected, atol=1e-6)


def test_a_silent_unit_gets_a_gradient_only_when_redirected() -> None:
    """Behind a ReLU that is closed everywhere the usual gradient is 0."""
    convolution = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        convolution.weight.fill_(1)
        convolution.bias.fill_(-9)
    network = Network(nn.Sequential(convolution, nn.ReLU()), (0.0,) * 3, (1.0,) * 3)
    image = torch.rand(1, 3, 4, 4, generator=generator(0)).requires_grad_()

    def gradient() -> Tensor:
        (change,) = torch.autograd.grad(-network.taps(image, ["1"])["1"].sum(), image)
        return change

    assert not gradient().any()
    with network.redirected():
        assert (gradient() < 0).all()
    assert not gradient().any()


def test_transforms_keep_the_size_and_turn_about_the_centre() -> None:
    image = torch.full((1, 3, 40, 56), GREY)
    image[:, :, 20, 28] = 1
    assert robust(image, generator(0)).shape == image.shape
    torch.testing.assert_close(scale_and_rotate(image, 0, 0, generator(0)), image, atol=1e-5, rtol=0)
    x = torch.linspace(0, 1, 41).expand(1, 3, 41, 41).clone()
    turned = scale_and_rotate(x, 0, 90, generator(3))
    angle = math.radians(90 * float(torch.rand(2, generator=generator(3))[1] * 2 - 1))
    slope = turned[0, 0, 20, 21] - turned[0, 0, 20, 19]
    assert float(slope) == pytest.approx(math.cos(angle) * 2 / 40, abs=1e-3)
