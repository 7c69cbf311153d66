"""Discrepancy maps against a loop over all occlusions, and on units whose field is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.networks import random_module, save_weights

from convlens.errors import InvalidArgument
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import Layer, Manifest
from convlens_models.measures.discrepancy import (
    Forward,
    Patches,
    Probe,
    average,
    empirical_size,
    part_of,
    probe,
)
from convlens_models.measures.receptive_field import receptive_field
from convlens_models.measures.units import Hit, channel_map, strongest
from convlens_models.network import Network
from convlens_models.repository import ModelRepository

PATTERNS = ModelRepository().get().manifest
RNG = np.random.default_rng(3)


def hand_made(kernel: torch.Tensor, stride: int, pad: int) -> tuple[Manifest, Layer, Forward]:
    """A network of one convolution, as its manifest would describe it, and its forward pass."""
    side = kernel.shape[-1]
    layer = Layer(
        name="conv", kind="Conv", tensor="conv", shape=(1, 1, 1), stride=stride, receptive_field=side,
        receptive_field_start=(side - 1) / 2 - pad,
    )  # fmt: skip
    manifest = PATTERNS.model_copy(update={"layers": (layer,), "min_size": side})

    def forward(batch: np.ndarray) -> np.ndarray:
        value = F.conv2d(torch.from_numpy(batch).double(), kernel.double(), stride=stride, padding=pad)
        return value[:, 0].float().numpy()

    return manifest, layer, forward


def measured(item: Probe, forward) -> np.ndarray:
    changes = np.concatenate([item.changes(forward, portion) for portion in item.passes()])
    return item.discrepancy_map(changes)


def place(forward, image, patches, manifest, layer, number=0, at=None) -> Probe:
    """At the strongest unit, or at the one given."""
    clean = forward(image[None])
    hit = Hit(float(clean[0][at]), *at) if at else strongest(clean)[0]
    return probe(forward, image, hit, number=number, manifest=manifest, layer=layer, patches=patches)


def by_brute_force(forward, image: np.ndarray, patches: Patches, number: int, at=None) -> np.ndarray:
    """Every patch of the grid on the whole image, one after the other, in float64."""
    _, height, width = image.shape
    clean = forward(image[None])[0]
    y, x = at or np.unravel_index(clean.argmax(), clean.shape)
    total, count = np.zeros((height, width)), np.zeros((height, width))
    side = patches.side
    starts = [
        sorted({*range(0, extent - side + 1, patches.stride), extent - side}) for extent in (height, width)
    ]
    for top in starts[0]:
        for left in starts[1]:
            occluded = image.copy()
            occluded[:, top : top + side, left : left + side] = patches.pixels(number, top, left)
            change = abs(float(forward(occluded[None])[0, y, x]) - float(clean[y, x]))
            total[top : top + side, left : left + side] += change
            count[top : top + side, left : left + side] += 1
    assert count.min() >= 1
    return total / count


@pytest.mark.parametrize(("stride", "pad", "size"), [(1, 0, (23, 30)), (2, 3, (26, 21)), (3, 1, (25, 28))])
@pytest.mark.parametrize("patch", [(3, 2), (5, 5), (7, 3)])
def test_maps_are_those_of_a_loop_over_all_patches(stride, pad, size, patch) -> None:
    kernel = torch.randn(1, 3, 7, 7, generator=torch.Generator().manual_seed(stride))
    manifest, layer, forward = hand_made(kernel, stride, pad)
    for number in range(3):
        image = RNG.random((3, *size), np.float32)
        item = place(forward, image, Patches(*patch, seed=5), manifest, layer, number)
        expected = by_brute_force(forward, image, item.patches, number)
        np.testing.assert_allclose(measured(item, forward), expected, rtol=1e-4, atol=1e-6)
        assert len(item.places) < len(item.patches.starts(size[0])) * len(item.patches.starts(size[1]))


def test_a_deep_network_s_map_is_that_of_a_loop() -> None:
    """Pools, paddings and strides of the embedded network, with the unit at a border and within."""
    network = Network(random_module("patterns"), PATTERNS.mean, PATTERNS.std)
    layer = PATTERNS.layer("features.relu3_1")

    def forward(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return channel_map(network.taps(torch.from_numpy(batch), [layer.name])[layer.name].numpy(), "", 4)

    for number, at in enumerate(((0, 0), (14, 11), (7, 6), (3, 9))):
        image = RNG.random((3, 61, 50), np.float32)
        item = place(forward, image, Patches(11, 7, seed=0), PATTERNS, layer, number, at)
        expected = by_brute_force(forward, image, item.patches, number, at)
        np.testing.assert_allclose(measured(item, forward), expected, rtol=1e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize("architecture", ["squeezenet1_0", "resnet18"])
def test_a_part_of_the_image_gives_a_unit_its_value(architecture: str, tmp_path) -> None:
    module = random_module(architecture)
    manifest = add_architecture(tmp_path, architecture, save_weights(module, tmp_path / "w.safetensors"))
    network = Network(module, manifest.mean, manifest.std).double()
    size = (173, 210)
    images = torch.rand(1, 3, *size, dtype=torch.double)
    spatial = [layer for layer in manifest.layers if len(layer.shape) == 3 and layer.stride][::9]
    with torch.no_grad():
        values = network.taps(images, [layer.name for layer in spatial])
        smaller = 0
        for layer in spatial:
            height, width = values[layer.name].shape[2:]
            for y, x in ((0, 0), (height // 2, width // 2), (height // 3, width - 1), (height - 1, 1)):
                part = part_of(receptive_field(layer, y, x, size), layer.stride, size, manifest)
                cut = network.taps(images[..., *part.pixels], [layer.name])[layer.name]
                actual = cut[0, :, y - part.top // layer.stride, x - part.left // layer.stride]
                torch.testing.assert_close(actual, values[layer.name][0, :, y, x], rtol=1e-9, atol=1e-9)
                smaller += part.bottom - part.top < size[0] and part.right - part.left < size[1]
        assert smaller > len(spatial)


def test_networks_of_one_size_are_run_whole() -> None:
    fixed = PATTERNS.model_copy(update={"dynamic_size": False})
    layer = fixed.layer("features.conv1")
    field = receptive_field(layer, 5, 5, (96, 96))
    assert part_of(field, layer.stride, (96, 96), fixed) == (0, 0, 96, 96)
    assert part_of(field, 0, (96, 96), PATTERNS) == (0, 0, 96, 96)


def test_where_a_part_does_not_give_the_value_the_whole_image_is_run() -> None:
    """A network that its manifest describes wrongly: it also looks at the last pixel."""
    manifest, layer, forward = hand_made(torch.ones(1, 3, 5, 5), 1, 0)

    def deceiving(batch: np.ndarray) -> np.ndarray:
        return forward(batch) + 10 * batch[:, 0, -1:, -1:]

    image = RNG.random((3, 40, 40), np.float32) * 0.5
    image[:, :6, :6] = 1
    item = place(deceiving, image, Patches(3, 3, 0), manifest, layer)
    assert item.part == (0, 0, 40, 40)
    assert place(forward, image, Patches(3, 3, 0), manifest, layer).part == (0, 0, 5, 5)


@pytest.mark.parametrize("inner", [1, 3, 7, 15])
def test_the_empirical_size_of_a_known_unit(inner: int) -> None:
    """A unit with a theoretical field of 15 pixels that weighs only the middle: occluded pixel by pixel."""
    kernel = torch.zeros(1, 3, 15, 15)
    edge = (15 - inner) // 2
    kernel[..., edge : edge + inner, edge : edge + inner] = 1
    manifest, layer, forward = hand_made(kernel, 2, 4)
    probes, maps = [], []
    for number in range(12):
        probes.append(
            place(forward, RNG.random((3, 41, 52), np.float32), Patches(1, 1, 0), manifest, layer, number)
        )
        maps.append(measured(probes[-1], forward))
    field = average(probes, maps)
    assert field.shape == (15, 15)
    expected = np.zeros((15, 15), bool)
    expected[edge : edge + inner, edge : edge + inner] = True
    assert np.array_equal(field > 0, expected)
    assert empirical_size(field, 0.05) == inner


def test_fields_that_reach_beyond_the_image_are_averaged_over_the_images_that_have_them() -> None:
    manifest, layer, forward = hand_made(torch.ones(1, 3, 9, 9), 1, 4)
    dark = np.zeros((3, 20, 20), np.float32)
    corner, middle = dark.copy(), dark.copy()
    corner[:, :3, :3] = 1
    middle[:, 8:11, 8:11] = 1
    patches = Patches(1, 1, 0)
    probes = [place(forward, image, patches, manifest, layer, i) for i, image in enumerate((corner, middle))]
    ones = [np.ones((20, 20), np.float32)] * 2
    assert probes[0].field.top < 0
    assert np.array_equal(average(probes, ones), np.ones((9, 9)))
    seen = np.zeros((9, 9))
    seen[-probes[0].field.top :, -probes[0].field.left :] = 1
    assert np.array_equal(average(probes[:1], ones[:1]), seen)


def test_a_unit_that_nothing_changes_has_no_size() -> None:
    assert empirical_size(np.zeros((9, 9), np.float32), 0.5) == 0


def test_patches_reach_every_pixel_and_are_the_same_whichever_are_looked_at() -> None:
    patches = Patches(11, 3, seed=4)
    assert len(patches.starts(227)) == 73  # 5,329 positions: the paper's "about 5,000".
    assert patches.starts(224)[-1] == 213
    assert (patches.cover(225).sum(axis=0) >= 1).all()
    first = patches.pixels(0, 9, 12)
    assert first.shape == (3, 11, 11)
    assert np.array_equal(first, Patches(11, 5, seed=4).pixels(0, 9, 12))
    others = [Patches(11, 3, 5).pixels(0, 9, 12), patches.pixels(1, 9, 12), patches.pixels(0, 12, 9)]
    assert not any(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("side", "stride", "text"),
    [
        (51, 3, r"discrepancy\.patch = 51: must be at most 50"),
        (5, 6, r"discrepancy\.stride = 6: must be at most the patch, 5"),
    ],
)
def test_patches_must_fit(side: int, stride: int, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        Patches(side, stride, 0).check((60, 50))


def test_a_pass_is_bounded() -> None:
    manifest, layer, forward = hand_made(torch.ones(1, 3, 201, 201), 1, 0)
    item = place(forward, RNG.random((3, 224, 224), np.float32), Patches(11, 3, 0), manifest, layer)
    sizes = [len(item.places[portion]) for portion in item.passes()]
    assert max(sizes) * 201 * 201 <= 500_000
    assert sum(sizes) == len(item.places)
