"""Insertion and deletion scores, against brute force; a map that knows more scores better."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
import scipy.ndimage
import torch
from support.replies import tensors_of

from convlens import wire
from convlens.v1 import attribution_pb2, attribution_pb2_grpc, image_pb2
from convlens_models.network import Network, load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository
from convlens_server.quick.quality import folded_gaussian, importance, published_blur, scaled_blur

CHOICES: dict[str, Any] = {
    "default": {},
    "published": {"insertion_start": "INSERTION_START_PUBLISHED", "deletion_end": "DELETION_END_MEAN"},
    "scaled": {"insertion_start": "INSERTION_START_SCALED", "deletion_end": "DELETION_END_GREY"},
}
UNIT = {"channel": {"layer": "features.relu3_2", "channel": 4}}


@pytest.fixture(scope="module")
def photo(pixels: np.ndarray) -> np.ndarray:
    image = image_pb2.Image(encoded=wire.encode_image(pixels))
    return to_input(image, ModelRepository().get().manifest)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(ModelRepository().get()).double()


def ask(channel: grpc.Channel, photo: np.ndarray, steps: int, *items: dict[str, Any], **quality: Any) -> Any:
    request = attribution_pb2.AttributeRequest(
        images=[image_pb2.Image(tensor=wire.to_tensor(photo))],
        attributions=[attribution_pb2.Attribution(**item) for item in items],
        quality={"steps": steps, **quality},
    )
    return tensors_of(attribution_pb2_grpc.AttributionServiceStub(channel).Attribute(request))


def area(
    network: Network, layer: str, read: Any, frames: tuple[np.ndarray, np.ndarray, np.ndarray], steps: int
) -> float:
    """The trapezoid mean while the highest pixels of `ranking` go from `before` to `after`."""
    before, after, ranking = frames
    order = sorted(range(ranking.size), key=lambda place: -ranking.flat[place])
    values = []
    for step in range(steps + 1):
        image = before.copy().reshape(3, -1)
        for place in order[: step * ranking.size // steps]:
            image[:, place] = after.reshape(3, -1)[:, place]
        batch = torch.from_numpy(image.reshape(1, *before.shape)).double()
        values.append(float(read(network.taps(batch, [layer])[layer][0])))
    return float(np.trapezoid(values, dx=1 / steps))


def published(photo: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The procedure of the authors' code, in float64: zeros around the normalised image, a square kernel.

    That is 11 x 11, made by SciPy's Gaussian filter of deviation 5 from a single 1 in the middle.
    """
    deviation = np.array([0.229, 0.224, 0.225])[:, None, None]
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = torch.from_numpy(scipy.ndimage.gaussian_filter(point, 5)).expand(3, 1, 11, 11)
    normalised = torch.from_numpy((photo.astype(np.float64) - mean) / deviation)[None]
    found = torch.nn.functional.conv2d(normalised, kernel, padding=5, groups=3)[0].numpy()
    return found * deviation + mean


def mean_colour() -> np.ndarray:
    return np.asarray(ModelRepository().get().manifest.mean)[:, None, None]


def scaled(photo: np.ndarray) -> np.ndarray:
    return np.stack([scipy.ndimage.gaussian_filter(c, sigma=2, radius=2, mode="reflect") for c in photo])


def test_the_blurs_are_what_they_say(photo: np.ndarray) -> None:
    mean = mean_colour().astype(np.float32)
    assert np.allclose(scaled_blur(photo, mean), scaled(photo), atol=1e-5)
    assert np.abs(published_blur(photo, mean) - published(photo, mean)).max() < 1e-6
    assert np.abs(published(photo, mean) - scaled(photo)).max() > 0.05  # They are not the same.
    assert folded_gaussian().sum() == pytest.approx(1)


def test_pixels_are_ranked_by_what_a_map_means() -> None:
    maps = np.array([[-3.0, 1.0], [1.0, 1.0], [1.0, 1.5]], np.float32).reshape(1, 3, 1, 2)
    assert importance("gradient", maps).tolist() == [[[3, 1.5]]]
    assert importance("integrated_gradients", maps).tolist() == [[[-1, 3.5]]]
    assert importance("grad_cam", maps[:, :1]).tolist() == [[[-3, 1]]]


@pytest.mark.parametrize("technique", ["smoothgrad", "gradient_times_input", "grad_cam"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("choice", ["default", "published", "scaled"])
def test_scores_agree_with_brute_force(
    channel: grpc.Channel, network: Network, photo: np.ndarray, technique: str, inside: bool, choice: str
) -> None:
    """By default they are the published procedure's: an own copy of it in float64."""
    steps, arm = 7, UNIT if inside else {"class_score": {}}
    options = {"samples": 2} if technique == "smoothgrad" else {}
    quality = CHOICES[choice]
    result, tensors = ask(channel, photo, steps, {"target": arm, technique: options}, **quality)
    assert result.quality == attribution_pb2.Quality(steps=steps, **(quality or CHOICES["published"]))
    (found,) = result.targets
    (ranking,) = importance(technique, *tensors.values())
    if inside:
        layer, read = "features.relu3_2", lambda value: value[4].mean() / found.values[0]
    else:
        layer, read = "probabilities", lambda value: value[found.class_indices[0]]
    start, end = published(photo, mean_colour()), np.broadcast_to(mean_colour(), photo.shape)
    if choice == "scaled":
        start, end = scaled(photo), np.full_like(photo, 0.5)
    insertion = area(network, layer, read, (start, photo, ranking), steps)
    deletion = area(network, layer, read, (photo, end, ranking), steps)
    assert list(found.insertion) == pytest.approx([insertion], abs=1e-4)
    assert list(found.deletion) == pytest.approx([deletion], abs=1e-4)


def test_a_map_of_the_right_place_scores_better(channel: grpc.Channel) -> None:
    """A disc in a corner: occlusion finds it."""
    labels = ModelRepository().get().manifest.labels
    y, x = np.mgrid[:96, :96]
    image = np.full((3, 96, 96), 0.85, np.float32)
    image[:, (x - 28) ** 2 + (y - 30) ** 2 < 20**2] = 0.1
    arm = {"class_score": {"index": labels.index("disc")}}
    items = ({"occlusion": {"window": 24, "stride": 8}}, {"rise": {"masks": 1}})
    result, tensors = ask(channel, image, 20, *({"target": arm, **item} for item in items))
    found = tensors["0.occlusion"][0, 0]
    top, left = np.unravel_index(found.argmax(), found.shape)
    assert (left - 28) ** 2 + (top - 30) ** 2 < 30**2
    occlusion, chance = result.targets
    assert occlusion.deletion[0] < chance.deletion[0] - 0.1
    assert occlusion.insertion[0] > 0.8


def test_no_scores_unless_asked_for(channel: grpc.Channel, photo: np.ndarray) -> None:
    request = attribution_pb2.AttributeRequest(
        images=[image_pb2.Image(tensor=wire.to_tensor(photo))],
        attributions=[attribution_pb2.Attribution(gradient={})],
    )
    result, _ = tensors_of(attribution_pb2_grpc.AttributionServiceStub(channel).Attribute(request))
    assert not result.targets[0].insertion
    assert not result.targets[0].deletion
    assert not result.HasField("quality")
