"""Style transfer on a small network, and the losses and colours that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.linalg import sqrtm
from support import techniques
from support.tiny_model import NAME
from torch import Tensor

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_models.importing.importer import add_architecture
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.device_process import decode_images
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Step, Task
from convlens_workers.techniques.parts.colours import luminance, match_covariance, with_luminance
from convlens_workers.techniques.parts.losses import content_loss, gram, mean, wasserstein_loss

REAL = "squeezenet1_0"
LAYERS = ["features.relu1", "features.relu3_1"]
CLASSIC = job_pb2.STYLE_METHOD_CLASSIC


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def loaded(path: Path, longer: int) -> Tensor:
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((longer, longer))
    return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def make_task(models: Path, images: dict[str, Tensor], model: str = NAME, **params: object) -> Task:
    stored = ModelRepository(models).get(model)
    defaults = {
        "styles": [{"weight": 1}],
        "first_steps": 20,
        "steps": 5,
        "smallest": 40,
        "learning_rate": 0.02,
        "content_weight": 0.1,
    }
    message = job_pb2.StyleTransfer(**(defaults | params))
    files = CollectionFiles("memory:///")
    return Task(message, load_network(stored), stored.manifest, images, 0, torch.device("cpu"), files)


def pictures() -> dict[str, Tensor]:
    ramp = torch.linspace(0, 12, 48).sin().expand(1, 3, 48, 48) * 0.4 + 0.5
    return {"content": noise(1, 3, 40, 48), "styles[0].image": ramp}


def run(task: Task) -> tuple[list[Step], Tensor]:
    steps, results = techniques.run(begin("style_transfer", task))
    return steps, results["image"]


def plain_classic(task: Task, iterations: int, layers: Sequence[str], content_layer: str) -> float:
    """Gatys et al. 2016 written down at once, with PyTorch's optimiser: the loss after so many iterations."""
    network, share = task.network.average_pooled(), 1 / len(layers)
    strides = {layer.name: layer.stride for layer in task.manifest.layers}

    def features(image: Tensor, layer: str) -> Tensor:
        value = network.taps(F.pad(image, (32,) * 4, mode="reflect"), [layer])[layer]
        rows, columns = (-(side // -strides[layer]) for side in image.shape[2:])
        top, left = (value.shape[2] - rows) // 2, (value.shape[3] - columns) // 2
        return value[0, :, top : top + rows, left : left + columns].flatten(1)

    def product(flat: Tensor) -> Tensor:
        return flat @ flat.T / flat.shape[1]

    with torch.no_grad():
        grams = {layer: product(features(task.images["styles[0].image"], layer)) for layer in layers}
        content = features(task.images["content"], content_layer)
    x = task.images["content"].clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [x], max_iter=iterations, history_size=20, tolerance_grad=0, tolerance_change=0
    )
    losses = []

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = 0.1 * ((features(x, content_layer) - content) ** 2).mean() / (content**2).mean()
        for layer, wanted in grams.items():
            loss = loss + share * ((product(features(x, layer)) - wanted) ** 2).sum() / (wanted**2).sum()
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    optimiser.step(closure)
    return losses[-1]


def assert_as_good(task: Task, iterations: int, layers: Sequence[str], content_layer: str) -> None:
    last = run(task)[0][-1].losses
    ours = 0.1 * last["content"] + sum(last[f"style0.{layer}"] for layer in layers) / len(layers)
    assert float(ours) <= 1.02 * plain_classic(task, iterations, layers, content_layer)


def test_classic_is_as_good_as_a_plain_implementation(tiny_models: Path) -> None:
    task = make_task(tiny_models, pictures(), method=CLASSIC, layers=LAYERS, first_steps=40)
    assert_as_good(task, 40, LAYERS, "features.relu4_2")


@pytest.mark.slow
def test_classic_is_as_good_on_photograph_and_painting(data: Path, tmp_path: Path) -> None:
    models = data / "models"
    add_architecture(tmp_path, REAL, models / f"{REAL}.safetensors", models / "imagenet_labels.tsv")
    images = {
        "content": loaded(data / "contents/tubingen.jpg", 128),
        "styles[0].image": loaded(data / "styles/starry_night.jpg", 128),
    }
    task = make_task(tmp_path, images, model=REAL, method=CLASSIC, first_steps=60)
    layers = [f"features.{number}" for number in (1, 3, 7, 12)]
    assert_as_good(task, 60, layers, "features.8")


@pytest.mark.parametrize("method", [job_pb2.STYLE_METHOD_BEST, CLASSIC])
def test_the_style_comes_closer(tiny_models: Path, method: int) -> None:
    steps, image = run(make_task(tiny_models, pictures(), method=method, learning_rate=0.05))
    style = [name for name in steps[0].losses if name.startswith("style")]
    sums = [sum(float(step.losses[name]) for name in style) for step in steps]
    assert min(sums[15:20]) < 0.6 * sums[0]
    assert image.shape == (1, 3, 40, 48)


def test_content_without_style_weight_is_kept(tiny_models: Path) -> None:
    images = pictures()
    task = make_task(tiny_models, images, content_weight=1000, tv_weight=0, first_steps=5, smallest=2048)
    assert float((run(task)[1] - images["content"]).abs().mean()) < 0.06


def test_the_distance_is_that_of_normal_distributions() -> None:
    """Against SciPy's matrix square root in float64."""
    ours, target = noise(1, 4, 7, 9), noise(1, 4, 8, 5, seed=1)
    scale = float(target.square().mean().sqrt())

    def normal(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
        flat = features.flatten(2)[0].double().numpy() / scale
        return flat.mean(1), np.cov(flat, bias=True) + 1e-4 * np.eye(4)

    (mean_a, a), (mean_b, b) = normal(ours), normal(target)
    root = np.real(sqrtm(b))
    cross = np.trace(np.real(sqrtm(root @ a @ root)))
    expected = (((mean_a - mean_b) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross) / 4
    assert float(wasserstein_loss(target)(ours)) == pytest.approx(expected, rel=1e-3)
    assert abs(float(wasserstein_loss(target)(target))) < 1e-5


def test_its_gradient_is_finite_where_features_are_silent() -> None:
    target = noise(1, 4, 6, 6)
    target[:, 2:] = 0
    features = torch.zeros(1, 4, 6, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(wasserstein_loss(target)(features), features)
    assert gradient.isfinite().all()


def test_masks_choose_positions() -> None:
    features, mask = noise(1, 3, 4, 6), torch.zeros(1, 1, 4, 6)
    mask[..., :3] = 1
    torch.testing.assert_close(gram(features, mask), gram(features[..., :3]))
    torch.testing.assert_close(mean(features, mask), features[..., :3].mean((2, 3)))


def test_content_loss_is_relative() -> None:
    target = noise(1, 3, 4, 4)
    assert float(content_loss(target)(torch.zeros_like(target))) == pytest.approx(1)


def test_colours_are_kept_both_ways(tiny_models: Path) -> None:
    image, sample = noise(1, 3, 8, 9), 0.4 + 0.2 * noise(1, 3, 7, 5, seed=1)
    matched = match_covariance(image, sample).flatten(2)[0]
    torch.testing.assert_close(matched.mean(1), sample.flatten(2)[0].mean(1), atol=1e-4, rtol=0)
    wanted = sample.flatten(2)[0].cov(correction=0)
    torch.testing.assert_close(matched.cov(correction=0), wanted, atol=1e-4, rtol=0)
    small = 0.4 + 0.1 * image
    lighter = 0.2 + small
    torch.testing.assert_close(luminance(with_luminance(small, lighter)), luminance(lighter))
    images = pictures()
    task = make_task(tiny_models, images, colours=job_pb2.COLOURS_LUMINANCE, method=CLASSIC, first_steps=2)
    chroma = run(task)[1] - images["content"]
    assert float((chroma - chroma.mean(1, keepdim=True)).abs().median()) < 1e-5


def test_nested_pictures_are_found_by_their_path(tiny_models: Path) -> None:
    picture = {"tensor": wire.to_tensor(np.zeros((3, 20, 16), np.float32))}
    message = job_pb2.StyleTransfer(
        content=picture, styles=[{"image": picture}, {"image": picture, "mask": picture}]
    )
    images = decode_images(message, ModelRepository(tiny_models).get(NAME).manifest, torch.device("cpu"))
    assert set(images) == {"content", "styles[0].image", "styles[1].image", "styles[1].mask"}


@pytest.mark.parametrize(
    ("params", "field"),
    [({"styles": [{"weight": 0}]}, "styles"), ({"layers": LAYERS, "weights": [1.0]}, "weights")],
)
def test_what_does_not_match_is_refused(tiny_models: Path, params: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"style_transfer\.{field}"):
        run(make_task(tiny_models, pictures(), **params))
