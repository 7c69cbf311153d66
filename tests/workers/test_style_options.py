"""What style transfer may be told: masks of both sides, scales, pools, optimisers, starts; held to NumPy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from support import techniques
from support.tiny_model import NAME
from torch import Tensor

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Step, Task
from convlens_workers.techniques.parts.colours import match_covariance
from convlens_workers.techniques.style_transfer import METHODS, Source

LAYER, CONTENT = "features.relu1", "features.relu4_1"
BEST, CLASSIC = job_pb2.STYLE_METHOD_BEST, job_pb2.STYLE_METHOD_CLASSIC
GREY, NOISE = job_pb2.STYLE_START_GREY, job_pb2.STYLE_START_NOISE
KERNEL = np.random.default_rng(0).normal(size=(4, 3))

pytestmark = pytest.mark.usefixtures("one_thread")


class Pointwise:
    """A network each of whose layers is ReLU(K x) of blocks of pixels: no position sees another one."""

    def __init__(self, block: int = 1) -> None:
        self.block = block
        self.pooled: tuple[float, int] | None = None
        self.seen: list[tuple[int, int]] = []

    def taps(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        self.seen.append((images.shape[2], images.shape[3]))
        means = torch.nn.functional.avg_pool2d(images, self.block)
        value = torch.einsum("kc,nchw->nkhw", torch.from_numpy(KERNEL).float(), means).relu()
        return dict.fromkeys(layers, value)

    def average_pooled(self, factor: float = 1.0, power: int = 1) -> Pointwise:
        self.pooled = factor, power
        return self


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make_task(models: Path, images: dict[str, Tensor], network: object = None, **params: Any) -> Task:
    stored = ModelRepository(models).get(NAME)
    defaults = {
        "styles": [{"weight": 1, "scale": 1}],
        "layers": [LAYER],
        "content_layer": CONTENT,
        "first_steps": 1,
        "steps": 2,
        "smallest": 2048,
        "learning_rate": 0.02,
        "content_weight": 0.1,
    }
    message = job_pb2.StyleTransfer(**(defaults | params))
    known: Any = network or load_network(stored)
    files = CollectionFiles("memory:///")
    return Task(message, known, stored.manifest, images, 0, torch.device("cpu"), files)


def pictures(**more: Tensor) -> dict[str, Tensor]:
    return {"content": noise(1, 3, 40, 48), "styles[0].image": painting(), **more}


def painting() -> Tensor:
    """Of other colours than noise, from dark to light."""
    ramp = torch.linspace(0.1, 1, 48)
    return noise(1, 3, 48, 48, seed=1) * ramp * torch.tensor([1.0, 0.6, 0.2]).view(3, 1, 1)


def run(task: Task) -> tuple[list[Step], Tensor]:
    steps, results = techniques.run(begin("style_transfer", task))
    return steps, results["image"]


def first_style_loss(task: Task) -> float:
    return float(run(task)[0][0].losses[f"style0.{LAYER}"])


def grey(picture: Tensor) -> np.ndarray:
    return np.einsum("c,chw->hw", (0.299, 0.587, 0.114), picture[0].double().numpy())


def described(
    picture: Tensor, mask: np.ndarray | None = None, block: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Features (K, positions) in float64 and what each position counts."""
    pixels = picture[0].double().numpy()
    height, width = (side // block for side in pixels.shape[1:])
    means = pixels.reshape(3, height, block, width, block).mean((2, 4))
    weights = np.ones((height, width)) if mask is None else mask
    return np.maximum(KERNEL @ means.reshape(3, -1), 0), weights.ravel() / weights.sum()


def gram_distance(ours: tuple[np.ndarray, np.ndarray], style: tuple[np.ndarray, np.ndarray]) -> float:
    a, b = ((features * share) @ features.T for features, share in (ours, style))
    return float(((a - b) ** 2).sum() / (b**2).sum())


def wasserstein(ours: tuple[np.ndarray, np.ndarray], style: tuple[np.ndarray, np.ndarray]) -> float:
    scale = np.sqrt(((style[0] ** 2) @ style[1]).mean())
    (mean_a, a), (mean_b, b) = (
        (values @ share, np.cov(values, bias=True, aweights=share) + 1e-4 * np.eye(4))
        for values, share in ((features / scale, share) for features, share in (ours, style))
    )
    root = np.real(sqrtm(b))
    cross = np.trace(np.real(sqrtm(root @ a @ root)))
    return float((((mean_a - mean_b) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross) / 4)


@pytest.mark.parametrize(("method", "distance"), [(CLASSIC, gram_distance), (BEST, wasserstein)])
@pytest.mark.parametrize("masked", ["", "mask", "style_mask", "mask style_mask"])
def test_each_side_counts_where_its_mask_is_white(tiny_models: Path, method, distance, masked: str) -> None:
    masks = {"mask": noise(1, 3, 40, 48, seed=2), "style_mask": noise(1, 3, 48, 48, seed=3)}
    used = {name: masks[name] for name in masked.split()}
    images = pictures(**{f"styles[0].{name}": mask for name, mask in used.items()})
    found = first_style_loss(make_task(tiny_models, images, Pointwise(), method=method))
    where, part = (grey(used[name]) if name in used else None for name in ("mask", "style_mask"))
    wanted = distance(described(images["content"], where), described(images["styles[0].image"], part))
    assert found == pytest.approx(wanted, rel=2e-3)


def test_masks_are_brought_to_the_layers_size(tiny_models: Path) -> None:
    """As Pillow does it, whose bilinear filter is a triangle as wide as the step, too."""
    masks = {
        "styles[0].mask": noise(1, 3, 40, 48, seed=2),
        "styles[0].style_mask": noise(1, 3, 48, 48, seed=3),
    }
    images = pictures(**masks)
    found = first_style_loss(make_task(tiny_models, images, Pointwise(4), method=CLASSIC))

    def small(picture: Tensor) -> np.ndarray:
        whole = Image.fromarray(grey(picture).astype(np.float32))
        size = (whole.width // 4, whole.height // 4)
        return np.asarray(whole.resize(size, Image.Resampling.BILINEAR)).astype(np.float64)

    where, part = map(small, masks.values())
    ours, style = images["content"], images["styles[0].image"]
    assert found == pytest.approx(
        gram_distance(described(ours, where, 4), described(style, part, 4)), rel=2e-3
    )


@pytest.mark.parametrize("method", [BEST, CLASSIC])
def test_white_masks_are_none(tiny_models: Path, method: int) -> None:
    white = {name: torch.ones(1, 3, 20, 30) for name in ("styles[0].mask", "styles[0].style_mask")}
    plain, masked = (
        run(make_task(tiny_models, pictures(**masks), method=method, first_steps=3))[0]
        for masks in ({}, white)
    )
    for one, other in zip(plain, masked, strict=True):
        torch.testing.assert_close(dict(one.losses), dict(other.losses), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [BEST, CLASSIC])
def test_half_a_style_is_that_half_cut_out(tiny_models: Path, method: int) -> None:
    half = torch.zeros(1, 3, 48, 48)
    half[..., :16] = 1
    masked = make_task(tiny_models, pictures(**{"styles[0].style_mask": half}), Pointwise(), method=method)
    cut = pictures(**{"styles[0].image": painting()[..., :16].contiguous()})
    wanted = first_style_loss(make_task(tiny_models, cut, Pointwise(), method=method))
    assert first_style_loss(masked) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("side", ["mask", "style_mask"])
def test_a_black_mask_is_refused(tiny_models: Path, side: str) -> None:
    task = make_task(tiny_models, pictures(**{f"styles[0].{side}": torch.zeros(1, 3, 8, 8)}))
    with pytest.raises(InvalidArgument, match=rf"style_transfer\.styles\[0\]\.{side} = 'a black picture'"):
        run(task)


def test_a_style_is_scaled_by_the_results_longer_side(tiny_models: Path) -> None:
    """At each size of the picture; one without a scale, as in older requests, is of its size."""
    images = {"content": noise(1, 3, 80, 96), **{f"styles[{i}].image": noise(1, 3, 60, 30) for i in range(3)}}
    styles = [{"weight": 1, "scale": 0.5}, {"weight": 1, "scale": 2}, {"weight": 1}]
    network = Pointwise()
    run(make_task(tiny_models, images, network, styles=styles, smallest=56))

    def framed(height: int, width: int) -> tuple[int, int]:
        margin = 2 * min(32, height - 1, width - 1)
        return height + margin, width + margin

    for longer in (68, 96):
        sizes = {(round(longer * scale), round(longer * scale / 2)) for scale in (0.5, 2, 1)}
        assert {framed(*size) for size in sizes} <= set(network.seen)


@pytest.mark.parametrize(
    ("method", "pooling", "pooled"),
    [
        (BEST, job_pb2.STYLE_POOLING_UNSPECIFIED, (2.0, 1)),
        (BEST, job_pb2.STYLE_POOLING_AVERAGE, (2.0, 1)),
        (BEST, job_pb2.STYLE_POOLING_L2, (1.56, 2)),
        (BEST, job_pb2.STYLE_POOLING_MAX, None),
        (CLASSIC, job_pb2.STYLE_POOLING_UNSPECIFIED, (1.0, 1)),
        (CLASSIC, job_pb2.STYLE_POOLING_L2, (1.0, 2)),
        (CLASSIC, job_pb2.STYLE_POOLING_MAX, None),
    ],
)
def test_pools_are_those_that_are_asked_for(tiny_models: Path, method: int, pooling: int, pooled) -> None:
    network = Pointwise()
    run(make_task(tiny_models, pictures(), network, method=method, pooling=pooling))
    assert network.pooled == pooled


@pytest.mark.parametrize("method", [BEST, CLASSIC])
def test_adam_takes_a_step_of_its_rate_by_either_method(tiny_models: Path, method: int) -> None:
    """Of which the moving average, of the pictures before and after it, shows half."""
    images = pictures(content=0.2 + 0.6 * noise(1, 3, 40, 48))
    adam = job_pb2.OPTIMISER_ADAM
    _, image = run(make_task(tiny_models, images, method=method, optimiser=adam, learning_rate=0.03))
    moved = (image - images["content"]).abs()
    expected = 0.03 / (1 + 0.99)
    assert float(moved.max()) == pytest.approx(expected, rel=1e-3)
    assert float((moved > 0.99 * expected).float().mean()) > 0.99


@pytest.mark.parametrize("method", [BEST, CLASSIC])
def test_the_loss_falls_with_every_step_of_lbfgs_by_either_method(tiny_models: Path, method: int) -> None:
    lbfgs = job_pb2.OPTIMISER_LBFGS
    options = {"method": method, "optimiser": lbfgs, "first_steps": 6, "steps": 6, "smallest": 28}
    steps, image = run(make_task(tiny_models, pictures(), **options))
    assert len(steps) == (12 if method == BEST else 6)
    for start in range(0, len(steps), 6):
        losses = [float(step.losses["loss"]) for step in steps[start : start + 6]]
        assert losses == sorted(losses, reverse=True)
    assert float(image.std()) > 0.1


def started(task: Task) -> Tensor:
    source = Source(task, METHODS[task.params.method], task.network)
    return source.begin((20, 24), torch.Generator().manual_seed(7))


def test_the_picture_starts_as_it_is_told(tiny_models: Path) -> None:
    images, other = pictures(), noise(1, 3, 40, 48, seed=5)

    def start(**params: Any) -> Tensor:
        return started(make_task(tiny_models, images, **params))

    def small(picture: Tensor) -> Tensor:
        planes = [Image.fromarray(plane.numpy()) for plane in picture[0]]
        halves = [np.asarray(plane.resize((24, 20), Image.Resampling.BILINEAR)) for plane in planes]
        return torch.from_numpy(np.stack(halves))[None]

    torch.testing.assert_close(start(), small(images["content"]), atol=1e-5, rtol=0)
    middle = start(start=GREY)
    assert 0 < float((middle - 0.5).abs().max()) <= 0.5 / 255
    assert torch.equal(start(start=NOISE), start(noise_start=True))
    assert torch.equal(start(start=NOISE), start(start=NOISE, noise_start=True))
    assert float((start(start=NOISE) - 0.5).square().mean()) == pytest.approx(1 / 12, rel=0.1)
    with_initial = make_task(tiny_models, images | {"initial": other})
    torch.testing.assert_close(started(with_initial), small(other), atol=1e-5, rtol=0)
    luminance = replace(with_initial, params=job_pb2.StyleTransfer(colours=job_pb2.COLOURS_LUMINANCE))
    luminance.params.MergeFrom(with_initial.params)
    assert float(started(luminance).std(1).max()) < 1e-6


def test_colours_are_matched_where_the_style_counts() -> None:
    image, sample = noise(1, 3, 8, 9), 0.4 + 0.2 * noise(1, 3, 7, 5, seed=1)
    mask = torch.zeros(1, 1, 8, 9)
    mask[..., :4] = 1
    matched = match_covariance(image, sample, mask)[..., :4].flatten(2)[0]
    wanted = sample.flatten(2)[0]
    torch.testing.assert_close(matched.mean(1), wanted.mean(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(matched.cov(correction=0), wanted.cov(correction=0), atol=1e-4, rtol=0)
