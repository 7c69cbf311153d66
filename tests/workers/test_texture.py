"""Texture synthesis, and the losses, layers and colours that it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.exposure import match_histograms
from support import techniques
from support.tiny_model import NAME
from torch import Tensor, nn

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens.v1 import job_pb2
from convlens_models.network import Network, load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.jobs.techniques import layers
from convlens_workers.jobs.techniques.sizes import scales
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import State, Step, Task
from convlens_workers.techniques.parts.colours import match_histogram
from convlens_workers.techniques.parts.descent import warnings
from convlens_workers.techniques.parts.image_optimisation import Frame, features, framed
from convlens_workers.techniques.parts.losses import (
    colour_variation,
    gram,
    gram_error,
    gram_loss,
    total_variation,
)
from convlens_workers.techniques.parts.optimisers import MOST_EVALUATIONS, adam, lbfgs

STEPS = 12
ENDS = (slice(8), slice(-8, None))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make_task(models: Path, sample: Tensor, **params: object) -> Task:
    stored = ModelRepository(models).get(NAME)
    message = job_pb2.Texture(**({"steps": 30, "scales": 1, "learning_rate": 0.02} | params))
    files = CollectionFiles("memory:///")
    images = {"sample": sample}
    return Task(message, load_network(stored), stored.manifest, images, 0, torch.device("cpu"), files)


def run(task: Task) -> tuple[list[Step], Tensor]:
    steps, results = techniques.run(begin("texture", task))
    return steps, results["image"]


def test_gram_matrices_and_their_error_equal_an_example_worked_by_hand() -> None:
    """Two channels, three positions: F F^T by hand, E = sum (F F^T - F' F'^T)^2 / (4 N^2 M^2)."""
    features = torch.tensor([[[[1.0, 2.0, 3.0]], [[0.0, 1.0, -1.0]]]], dtype=torch.float64)
    other = torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 0.0, 2.0]]]], dtype=torch.float64)
    wanted = torch.tensor([[[[14.0, -1], [-1, 2]]], [[[1, 0], [0, 4]]]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([gram(features), gram(other)]) * 3, wanted, rtol=1e-15, atol=0)
    expected = (13**2 + 1 + 1 + 2**2) / (4 * 2**2 * 3**2)
    assert float(gram_error(features, gram(other))) == pytest.approx(expected, rel=1e-15)
    zero = (1**2 + 4**2) / (4 * 2**2 * 3**2)
    assert float(gram_loss(gram(other))(features)) == pytest.approx(expected / zero, rel=1e-15)


def test_the_error_does_not_depend_on_how_many_positions_the_target_had() -> None:
    features = noise(1, 4, 5, 6)
    target = gram(noise(1, 4, 3, 3, seed=1))
    tiled = gram(noise(1, 4, 3, 3, seed=1).repeat(1, 1, 2, 5))
    torch.testing.assert_close(gram_error(features, tiled), gram_error(features, target))


def test_total_variation_is_that_of_a_step() -> None:
    image = torch.zeros(1, 1, 2, 2)
    image[..., 1] = 0.5
    assert float(total_variation(image)) == pytest.approx(2 * 0.25 / 4)


def test_the_variation_of_colours_is_that_of_greys_and_dear_for_others() -> None:
    grey, colours = noise(2, 1, 6, 7).expand(2, 3, 6, 7), torch.tensor([[1.0, 0, -1], [1, -2, 1]])
    torch.testing.assert_close(colour_variation(grey), total_variation(grey))
    for colour in colours.view(2, 1, 3, 1, 1):
        assert colour_variation(grey * colour) > 5 * total_variation(grey * colour)


def test_histograms_are_matched_as_scikit_image_does() -> None:
    image, sample = noise(1, 3, 20, 24), noise(1, 3, 20, 24, seed=1) ** 2
    expected = match_histograms(
        image[0].permute(1, 2, 0).numpy(), sample[0].permute(1, 2, 0).numpy(), channel_axis=2
    )
    np.testing.assert_allclose(match_histogram(image, sample)[0].permute(1, 2, 0), expected, atol=1e-6)
    larger = match_histogram(noise(1, 3, 31, 17), sample)
    assert larger.shape == (1, 3, 31, 17)
    torch.testing.assert_close(larger.mean((2, 3)), sample.mean((2, 3)), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adam(0.1), lambda x: torch.optim.Adam(x, 0.1)),
        (lbfgs(), lambda x: torch.optim.LBFGS(x, 1.0, STEPS, 999, 0, 0, 20, "strong_wolfe")),
    ],
    ids=["adam", "lbfgs"],
)
def test_steps_one_by_one_are_those_of_torch(ours, theirs) -> None:
    """L-BFGS's own loop in a single call."""

    def valley(x: Tensor) -> Tensor:
        return ((x - 1) * torch.arange(1, 7)).square().sum() + (x - 2).cosh().sum()

    held = {"x": torch.zeros(6, dtype=torch.float64)}
    before = []
    for _ in range(STEPS):
        before.append({name: value.clone() for name, value in held.items()})
        again, held = held, ours.step(held, lambda x: (valley(x), {"valley": valley(x)}))[0]
        assert all(torch.equal(again[name], before[-1][name]) for name in again)
    x = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimiser = theirs([x])

    def closure() -> Tensor:
        optimiser.zero_grad()
        valley(x).backward()
        return valley(x)

    for _ in range(STEPS if isinstance(optimiser, torch.optim.Adam) else 1):
        optimiser.step(closure)
    torch.testing.assert_close(held["x"], x.detach(), rtol=0, atol=0)


def minimised(loss: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> tuple[State, list[float], int]:
    """The last state of L-BFGS, the losses before its steps, and how often it has looked."""
    held, losses, looked = {"x": x}, [], 0

    def evaluate(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal looked
        looked += 1
        value = loss(x)
        return value, {"loss": value}

    for _ in range(steps):
        before = looked
        held, terms = lbfgs().step(held, evaluate)
        losses.append(float(terms["loss"]))
        assert looked - before <= 2 * MOST_EVALUATIONS + 1
    return held, losses, looked


def test_lbfgs_is_not_caught_where_its_first_step_tells_of_no_curvature() -> None:
    """4,096 double wells, begun where they bend least: without line search the second step flies off."""
    noise = 1e-3 * torch.randn(4096, generator=torch.Generator().manual_seed(0))
    _, losses, _ = minimised(lambda x: (x.square() - 1).square().mean(), 0.58 + noise, 10)
    assert all(later <= earlier for earlier, later in pairwise(losses))
    assert losses[-1] < 1e-6 * losses[0]


def test_lbfgs_comes_back_from_where_the_loss_is_no_number() -> None:
    """The logarithm of what is below 0; the least x - log x is at 1."""
    held, losses, _ = minimised(lambda x: (x - x.log()).sum(), torch.full((3,), 50.0), 20)
    assert all(later <= earlier for earlier, later in pairwise(losses))
    torch.testing.assert_close(held["x"], torch.ones(3), rtol=0, atol=1e-3)


def test_lbfgs_does_not_look_any_more_where_it_gets_no_lower() -> None:
    *_, few = minimised(lambda x: (x - 1).square().sum(), torch.zeros(3), 20)
    held, _, many = minimised(lambda x: (x - 1).square().sum(), torch.zeros(3), 40)
    assert torch.equal(held["x"], torch.ones(3))
    assert few == many


def test_the_gram_matrices_come_close_to_the_samples(tiny_models: Path) -> None:
    ramp = torch.linspace(0, 9, 48).sin().expand(1, 3, 48, 48) * 0.3 + 0.5
    steps, image = run(make_task(tiny_models, ramp, height=64, width=56, keep_colours=True))
    assert image.shape == (1, 3, 64, 56)
    first, last = (sum(float(loss) for loss in step.losses.values()) for step in (steps[0], steps[-1]))
    assert last < 0.2 * first


@pytest.mark.parametrize("frame", ["reflect", "circular"])
def test_every_pixel_counts_about_the_same(tiny_models: Path, frame: Frame) -> None:
    """The gradient of the statistics, at the edges as large as in the middle."""
    task = make_task(tiny_models, noise(1, 3, 64, 64))
    image = noise(1, 3, 96, 96, seed=1).requires_grad_()
    values = features(task.network, image, ["features.relu2", "features.relu3_1"], frame)
    loss = torch.stack([gram(value).square().sum() for value in values.values()]).sum()
    (gradient,) = torch.autograd.grad(loss, image)
    size = gradient[0].abs().sum(0)
    corners = torch.stack([size[rows, columns].mean() for rows, columns in product(ENDS, ENDS)])
    assert float((corners / size[16:-16, 16:-16].mean() - 1).abs().max()) < 0.3


def test_features_are_those_at_the_positions_of_the_image(tiny_models: Path) -> None:
    """What is seen of a tile of a periodic image, continued, is what is seen of the whole in its middle."""
    task, image = make_task(tiny_models, noise(1, 3, 64, 64)), noise(1, 3, 64, 64)
    name = "features.relu2"
    tile = features(task.network, image, [name], "circular")[name]
    whole = task.network.taps(image.repeat(1, 1, 3, 3), [name])[name]
    side = whole.shape[2] // 3
    torch.testing.assert_close(tile, whole[:, :, side : 2 * side, side : 2 * side])


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_every_pixel_of_a_tile_counts_exactly_the_same(padding: int) -> None:
    """Windows of 4 by 4, two pixels apart: each pixel of a periodic image lies in four of them."""
    convolution = nn.Conv2d(3, 1, 4, stride=2, padding=padding, bias=False)
    nn.init.ones_(convolution.weight)
    network = Network(nn.Sequential(convolution), (0.0,) * 3, (1.0,) * 3)
    image = noise(1, 3, 48, 40).requires_grad_()
    value = features(network, image, ["0"], "circular")["0"]
    (gradient,) = torch.autograd.grad(value.sum(), image)
    assert value.shape == (1, 1, 24, 20)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 4))


def test_a_texture_of_greys_is_grey(tiny_models: Path) -> None:
    sample = noise(1, 1, 48, 48).expand(1, 3, 48, 48).contiguous()
    _, image = run(make_task(tiny_models, sample, height=64, width=64))
    assert float((image - image.mean(1, keepdim=True)).abs().max()) < 0.02


def test_a_seamless_picture_is_seen_continued() -> None:
    image = noise(1, 3, 48, 40)
    seen = framed(image, "circular")
    assert torch.equal(seen[:, :, :32], seen[:, :, 48:80])
    assert torch.equal(seen[..., :32], seen[..., 40:72])
    assert torch.equal(seen[:, :, 32:80, 32:72], image)


@pytest.mark.parametrize(("steps", "count"), [(30, 0), (1, 1)])
def test_a_loss_that_has_not_fallen_is_warned_of(tiny_models: Path, steps: int, count: int) -> None:
    sample = torch.linspace(0, 9, 48).sin().expand(1, 3, 48, 48) * 0.3 + 0.5
    seen, results = techniques.run(begin("texture", make_task(tiny_models, sample, steps=steps)))
    found = results["descent"]
    assert found.first_loss == pytest.approx(float(seen[0].losses["loss"]))
    assert found.last_loss == pytest.approx(float(seen[-1].losses["loss"]))
    terms = [float(value) for name, value in seen[0].losses.items() if name != "loss"]
    assert found.first_loss == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert len(warnings(found)) == count


@pytest.mark.parametrize(
    ("first", "last", "count"), [(1, 0.5, 0), (1, 0.51, 1), (0, 0, 0), (1, math.nan, 1), (1, math.inf, 1)]
)
def test_half_of_the_loss_must_be_gone(first: float, last: float, count: int) -> None:
    found = warnings(job_pb2.Descent(first_loss=first, last_loss=last, expected_fall=0.5))
    assert len(found) == count
    assert all("50%" in text and f"{last:.3g}" in text for text in found)


def test_average_pools_share_weights_and_leave_the_network_alone() -> None:
    network = Network(nn.Sequential(nn.Conv2d(3, 2, 1), nn.MaxPool2d(2)), (0.0,) * 3, (1.0,) * 3)
    image = noise(1, 3, 4, 4)
    twin, inner = network.average_pooled(2.0), network.taps(image, ["0"])["0"]
    assert twin.get_parameter("module.0.weight") is network.get_parameter("module.0.weight")
    torch.testing.assert_close(twin.taps(image, ["1"])["1"], 2 * nn.functional.avg_pool2d(inner, 2))
    torch.testing.assert_close(network.taps(image, ["1"])["1"], nn.functional.max_pool2d(inner, 2))
    roots = 1.56 * nn.functional.avg_pool2d(inner.double().square(), 2).sqrt()
    torch.testing.assert_close(network.average_pooled(1.56, 2).taps(image, ["1"])["1"].double(), roots)


def test_root_mean_squares_of_zeros_have_no_gradient() -> None:
    network = Network(nn.Sequential(nn.MaxPool2d(2)), (0.0,) * 3, (1.0,) * 3).average_pooled(1.0, 2)
    image = torch.zeros(1, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.taps(image, ["0"])["0"].sum(), image)
    assert not gradient.any()


def test_layers_are_found_by_depth(tiny_models: Path) -> None:
    manifest = ModelRepository(tiny_models).get(NAME).manifest
    assert layers.style_layers(manifest) == [f"features.relu{name}" for name in ("1", "3_1", "4_1", "5_1")]
    assert layers.content_layer(manifest) == "features.relu4_2"
    bare = manifest.model_copy(update={"layers": manifest.layers[:1]})
    with pytest.raises(FailedPrecondition, match="no ReLU"):
        layers.activations(bare)


def test_scales_end_with_the_picture_itself() -> None:
    assert scales((100, 200), 3, 2.0, 40) == [(50, 100), (100, 200)]
    assert scales((30, 20), 3, 2.0, 40) == [(30, 20)]


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0]])
def test_weights_that_do_not_match_the_layers_are_refused(tiny_models: Path, weights: list[float]) -> None:
    names = ["features.relu1", "features.relu2"]
    with pytest.raises(InvalidArgument, match=r"texture\.weights.*one a layer"):
        run(make_task(tiny_models, noise(1, 3, 48, 48), layers=names, weights=weights))
