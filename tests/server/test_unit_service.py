"""Unit patterns and discrepancy maps through a real server, against PyTorch in float64."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import torch
from support.replies import error_of, tensors_of
from torch import nn

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2, unit_pb2, unit_pb2_grpc
from convlens_models.manifest import Manifest
from convlens_models.measures.discrepancy import Patches
from convlens_models.measures.receptive_field import Box, receptive_field
from convlens_models.network import Network, load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository

LAYERS = ("features.relu1", "features.relu3_1", "features.conv4_2")


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel):
    return unit_pb2_grpc.UnitServiceStub(channel)


@pytest.fixture(scope="module")
def batch(pixels, manifest: Manifest) -> np.ndarray:
    pictures = [pixels, pixels[::-1], np.roll(pixels, 40, axis=1)]
    return np.stack([to_input(image_pb2.Image(encoded=wire.encode_image(p)), manifest) for p in pictures])


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(ModelRepository().get()).double()


def images_of(batch: np.ndarray) -> list[image_pb2.Image]:
    return [image_pb2.Image(tensor=wire.to_tensor(image)) for image in batch]


def guided(
    network: Network, image: np.ndarray, layer: str, channel: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Springenberg et al.'s rule by hooks: what leaves a ReLU downwards is also positive."""
    x = torch.from_numpy(image[None]).double().requires_grad_()
    hooks = [
        part.register_full_backward_hook(lambda _, passed, __: (passed[0].clamp(min=0),))
        for part in network.modules()
        if isinstance(part, nn.ReLU)
    ]
    value = network.taps(x, [layer])[layer][0, channel]
    y, column = divmod(int(value.argmax()), value.shape[1])
    (signal,) = torch.autograd.grad(value[y, column], x)
    for hook in hooks:
        hook.remove()
    return signal[0].numpy(), (y, column)


@pytest.mark.parametrize("layer", LAYERS)
def test_patterns_are_guided_backprop_within_the_box(stub, batch, network, manifest, layer) -> None:
    request = unit_pb2.GetUnitPatternsRequest(images=images_of(batch), layer=layer, channel=7)
    result, tensors = tensors_of(stub.GetUnitPatterns(request))
    assert list(tensors) == [f"{i}.{name}" for i in range(3) for name in ("pattern", "crop")]
    for i, hit in enumerate(result.hits):
        expected, (y, x) = guided(network, batch[i], layer, 7)
        assert (hit.y, hit.x) == (y, x)
        box = Box(hit.box.left, hit.box.top, hit.box.right, hit.box.bottom)
        assert box == receptive_field(manifest.layer(layer), y, x, batch.shape[2:]).clipped(batch.shape[2:])
        inside = expected[(slice(None), *box.pixels)]
        assert np.abs(inside).sum() == pytest.approx(np.abs(expected).sum(), rel=1e-12)
        error = np.linalg.norm(tensors[f"{i}.pattern"] - inside)
        assert error <= 1e-4 * np.linalg.norm(inside) or np.linalg.norm(inside) == 0
        assert np.array_equal(tensors[f"{i}.crop"], batch[i][(slice(None), *box.pixels)])


def test_values_are_the_largest_of_the_channel(stub, batch, network) -> None:
    request = unit_pb2.GetUnitPatternsRequest(images=images_of(batch), layer=LAYERS[1], channel=3)
    result, _ = tensors_of(stub.GetUnitPatterns(request))
    with torch.no_grad():
        values = network.taps(torch.from_numpy(batch).double(), [LAYERS[1]])[LAYERS[1]][:, 3]
    expected = values.flatten(1).max(dim=1).values
    assert [hit.value for hit in result.hits] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("layer", LAYERS[:2])
def test_discrepancy_maps_are_those_of_a_loop_in_float64(stub, batch, network, layer) -> None:
    images = batch[:2, :, :70, :58]
    request = unit_pb2.GetDiscrepancyMapsRequest(
        images=images_of(images), layer=layer, channel=7, discrepancy={"patch": 9, "stride": 6, "seed": 3}
    )
    result, tensors = tensors_of(stub.GetDiscrepancyMaps(request))
    assert np.array_equal(tensors["images"], images)
    for number, (image, hit) in enumerate(zip(images, result.hits, strict=True)):
        expected = occluded_everywhere(network, image, layer, 7, (hit.y, hit.x), number)
        np.testing.assert_allclose(tensors["maps"][number], expected, rtol=2e-3, atol=1e-4 * expected.max())


def occluded_everywhere(network, image, layer, channel, unit, number) -> np.ndarray:
    patches, (_, height, width) = Patches(9, 6, 3), image.shape
    corners = [(y, x) for y in patches.starts(height) for x in patches.starts(width)]
    batch = np.repeat(image[None], len(corners) + 1, axis=0)
    for occluded, (y, x) in zip(batch, corners, strict=False):
        occluded[:, y : y + 9, x : x + 9] = patches.pixels(number, int(y), int(x))
    with torch.no_grad():
        values = network.taps(torch.from_numpy(batch).double(), [layer])[layer][:, channel, *unit].numpy()
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (y, x), change in zip(corners, np.abs(values[:-1] - values[-1]), strict=True):
        total[y : y + 9, x : x + 9] += change
        count[y : y + 9, x : x + 9] += 1
    return total / count


def test_deeper_units_look_further_and_less_far_than_they_could(stub, batch) -> None:
    empirical, theoretical = [], []
    for layer in ("features.relu1", "features.relu2", "features.relu3_2", "features.relu4_2"):
        sizes = []
        for channel in (0, 5, 9, 20):
            request = unit_pb2.GetDiscrepancyMapsRequest(
                images=images_of(batch), layer=layer, channel=channel, discrepancy={"patch": 5, "stride": 2}
            )
            result, tensors = tensors_of(stub.GetDiscrepancyMaps(request))
            sizes.append(result.empirical_size)
            assert tensors["field"].shape == (result.theoretical_size,) * 2
            assert tensors["maps"].shape == (3, 96, 96)
        theoretical.append(result.theoretical_size)
        empirical.append(np.mean([size for size in sizes if size]))
    assert empirical == sorted(empirical)
    assert empirical[-1] < 0.75 * theoretical[-1]


def test_the_defaults_are_those_of_the_contract(stub, batch) -> None:
    def asked(**fields):
        request = unit_pb2.GetDiscrepancyMapsRequest(
            images=images_of(batch[:1]), layer="features.relu2", channel=2, **fields
        )
        return tensors_of(stub.GetDiscrepancyMaps(request))

    result, tensors = asked()
    same, again = asked(discrepancy={"patch": 11, "stride": 3, "threshold": 0.5, "seed": 0})
    assert result == same
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)
    assert not np.array_equal(asked(discrepancy={"seed": 1})[1]["maps"], tensors["maps"])


def test_a_layer_that_sees_everything_has_the_whole_image(stub, batch) -> None:
    request = unit_pb2.GetDiscrepancyMapsRequest(
        images=images_of(batch[:1, :, :64, :80]),
        layer="avgpool",
        channel=1,
        discrepancy={"patch": 32, "stride": 32},
    )
    result, tensors = tensors_of(stub.GetDiscrepancyMaps(request))
    assert tensors["field"].shape == (64, 80)
    assert result.theoretical_size == 80
    patterns, found = tensors_of(
        stub.GetUnitPatterns(
            unit_pb2.GetUnitPatternsRequest(images=images_of(batch[:1]), layer="avgpool", channel=1)
        )
    )
    assert found["0.pattern"].shape == (3, 96, 96)
    assert (patterns.hits[0].y, patterns.hits[0].x) == (0, 0)


BAD = {
    "layer": ({"layer": "features.nothing"}, "layer", "a layer of patterns"),
    "no layer": ({"layer": ""}, "layer", "given"),
    "vector": ({"layer": "classifier"}, "layer", "a layer with spatial axes"),
    "channel": ({"channel": 40}, "channel", "between 0 and 39"),
    "negative channel": ({"channel": -1}, "channel", "at least 0"),
    "no image": ({"images": []}, "images", "items"),
    "NaN": ({"images": [image_pb2.Image(tensor=wire.to_tensor(np.full((3, 96, 96), np.nan, np.float32)))]},
            "images[0].tensor", "nan"),
}  # fmt: skip
BAD_PATCHES = {
    "patch": ({"patch": 97}, "discrepancy.patch", "at most 96"),
    "huge patch": ({"patch": 300}, "discrepancy.patch", "between 1 and 256"),
    "gaps": ({"patch": 5, "stride": 6}, "discrepancy.stride", "at most the patch, 5"),
    "threshold": ({"threshold": 1.0}, "discrepancy.threshold", "between 0.01 and 0.99"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("call", ["GetUnitPatterns", "GetDiscrepancyMaps"])
def test_bad_requests_are_refused(stub, batch, bad, call) -> None:
    fields, field, text = bad
    request = getattr(unit_pb2, f"{call}Request")(
        **{"images": images_of(batch[:1]), "layer": "features.conv1", "channel": 0, **fields}
    )
    error = error_of(getattr(stub, call), request)
    assert isinstance(error, InvalidArgument)
    assert error.field == field
    assert text in str(error)


@pytest.mark.parametrize("bad", BAD_PATCHES.values(), ids=BAD_PATCHES.keys())
def test_bad_patches_are_refused(stub, batch, bad) -> None:
    fields, field, text = bad
    request = unit_pb2.GetDiscrepancyMapsRequest(
        images=images_of(batch[:1]), layer="features.conv1", discrepancy=fields
    )
    error = error_of(stub.GetDiscrepancyMaps, request)
    assert isinstance(error, InvalidArgument)
    assert error.field == field
    assert text in str(error)
