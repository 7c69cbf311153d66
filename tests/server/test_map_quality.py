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
from convlens_server.quick.quality import blurred, importance

UNIT = {"channel": {"layer": "features.relu3_2", "channel": 4}}


@pytest.fixture(scope="module")
def photo(pixels: np.ndarray) -> np.ndarray:
    image = image_pb2.Image(encoded=wire.encode_image(pixels))
    return to_input(image, ModelRepository().get().manifest)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(ModelRepository().get()).double()


def ask(channel: grpc.Channel, photo: np.ndarray, steps: int, *items: dict[str, Any]) -> Any:
    request = attribution_pb2.AttributeRequest(
        images=[image_pb2.Image(tensor=wire.to_tensor(photo))],
        attributions=[attribution_pb2.Attribution(**item) for item in items],
        quality={"steps": steps},
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


def test_the_blur_is_a_gaussian(photo: np.ndarray) -> None:
    expected = np.stack([scipy.ndimage.gaussian_filter(c, sigma=2, radius=2, mode="reflect") for c in photo])
    assert np.allclose(blurred(photo), expected, atol=1e-5)


def test_pixels_are_ranked_by_what_a_map_means() -> None:
    maps = np.array([[-3.0, 1.0], [1.0, 1.0], [1.0, 1.5]], np.float32).reshape(1, 3, 1, 2)
    assert importance("gradient", maps).tolist() == [[[3, 1.5]]]
    assert importance("integrated_gradients", maps).tolist() == [[[-1, 3.5]]]
    assert importance("grad_cam", maps[:, :1]).tolist() == [[[-3, 1]]]


@pytest.mark.parametrize("technique", ["smoothgrad", "gradient_times_input", "grad_cam"])
@pytest.mark.parametrize("inside", [False, True])
def test_scores_agree_with_brute_force(
    channel: grpc.Channel, network: Network, photo: np.ndarray, technique: str, inside: bool
) -> None:
    steps, arm = 7, UNIT if inside else {"class_score": {}}
    options = {"samples": 2} if technique == "smoothgrad" else {}
    result, tensors = ask(channel, photo, steps, {"target": arm, technique: options})
    (found,) = result.targets
    (ranking,) = importance(technique, *tensors.values())
    if inside:
        layer, read = "features.relu3_2", lambda value: value[4].mean() / found.values[0]
    else:
        layer, read = "probabilities", lambda value: value[found.class_indices[0]]
    grey = np.full_like(photo, 0.5)
    insertion = area(network, layer, read, (blurred(photo), photo, ranking), steps)
    deletion = area(network, layer, read, (photo, grey, ranking), steps)
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
