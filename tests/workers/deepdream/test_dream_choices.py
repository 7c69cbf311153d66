"""What of a picture dreams: layers by weight, channels by strength, places by a mask, light and dark."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import techniques
from support.dreams import make_task, photo, run, values
from torch import Tensor

from convlens_models.network import Network, load_network
from convlens_models.repository import StoredModel
from convlens_workers.techniques.deepdream import deepdream, next_octave
from convlens_workers.techniques.parts.colours import change_in_grey
from convlens_workers.techniques.parts.excitation import excited

LAYERS = ["features.relu2", "features.relu4_1"]
ONE_STEP = {"octaves": 1, "jitter": 0, "steps": 1, "step_size": 1.5}
LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
WHITE = torch.ones(1, 3, 48, 64)


def gradient(stored: StoredModel, weights: dict[str, float]) -> Tensor:
    """Of the weighted sum of the layers' norms, in float64."""
    double, x = load_network(stored).double(), photo().double().requires_grad_()
    sum(weight * values(double, x, name).norm() for name, weight in weights.items()).backward()
    return x.grad


@pytest.mark.parametrize("weights", [(3.0, 0.5), (0.0, 2.0)])
def test_layers_weigh_what_they_are_said_to(
    network: Network, stored: StoredModel, weights: tuple[float, float]
) -> None:
    steps, image = run(make_task(network, stored, layers=LAYERS, weights=weights, **ONE_STEP))
    weighted = dict(zip(LAYERS, weights, strict=True))
    g = gradient(stored, weighted)
    expected = (photo() + 1.5 / 255 * g / g.abs().mean()).clamp(0, 1).float()
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)
    for name, weight in weighted.items():
        norm = float(values(network, photo(), name).norm())
        assert float(steps[0].losses[name]) == pytest.approx(weight * norm, rel=1e-6)


def test_weights_may_be_of_the_default_layers(network: Network, stored: StoredModel) -> None:
    count = len(stored.manifest.dream_layers)
    plain, twice = (run(make_task(network, stored, weights=w))[1] for w in ([], [2.0] * count))
    torch.testing.assert_close(plain, twice, rtol=0, atol=1e-5)


def test_a_white_mask_is_none(network: Network, stored: StoredModel) -> None:
    plain = run(make_task(network, stored))[1]
    assert torch.equal(run(make_task(network, stored, mask=WHITE))[1], plain)


def test_the_black_part_stays_the_picture(network: Network, stored: StoredModel) -> None:
    mask = WHITE * (torch.arange(64) < 32)
    image = run(make_task(network, stored, mask=mask, octaves=3, tile=64, laplacian=2))[1]
    assert torch.equal(image[..., 32:], photo()[..., 32:])
    assert (image[..., :32] - photo()[..., :32]).abs().mean() > 0.005


def test_grey_parts_take_shorter_steps(network: Network, stored: StoredModel) -> None:
    """At once, as in the formula, and at the size of the picture, whatever that of the mask."""
    mask = torch.full((1, 3, 5, 9), 51 / 255)
    whole, part = (run(make_task(network, stored, mask=m, **ONE_STEP))[1] - photo() for m in (None, mask))
    torch.testing.assert_close(part, whole / 5, rtol=0, atol=1e-6)


def test_a_mask_is_enlarged_with_the_frames(network: Network, stored: StoredModel) -> None:
    """The middle half does not dream: in the second frame, at twice the size, nothing does."""
    mask = WHITE.clone()
    mask[..., 11:37, 15:49] = 0
    task = make_task(network, stored, mask=mask, frames=2, zoom=2.0, octaves=1)
    first = techniques.run(deepdream(task))[1]["frame.0000"]
    calm = make_task(network, stored, mask=0 * WHITE, frames=2, zoom=2.0, octaves=1)
    assert not torch.equal(first, techniques.run(deepdream(calm))[1]["frame.0000"])
    assert torch.equal(run(task)[1], run(calm)[1])


def test_detail_does_not_leave_the_mask_from_octave_to_octave() -> None:
    """By hand on a row: what was enlarged beyond the edge is gone, and where the mask is soft, softer."""
    start, detail = torch.zeros(1, 3, 1, 8), torch.full((1, 3, 1, 4), 0.5)
    fine = torch.tensor([1, 1, 1, 1, 0.25, 0, 0, 0]).view(1, 1, 1, 8)
    coarse = torch.tensor([1, 1, 0.5, 0]).view(1, 1, 1, 4)
    moved = next_octave(detail, start, (1, 8), {(1, 4): coarse, (1, 8): fine}.get)
    blurred = [1, 1, 1, 0.875, 0.625, 0.375, 0.125, 0]
    shares = [min(1, f / b) if f else 0 for f, b in zip(fine.flatten().tolist(), blurred, strict=True)]
    torch.testing.assert_close(moved[0, 0, 0], 0.5 * torch.tensor(shares))


def test_own_colours_are_kept_wherever_nothing_is_clipped(network: Network, stored: StoredModel) -> None:
    """I and Q of YIQ, after more steps than it takes for many pixels to clip."""
    task = make_task(network, stored, keep_colours=True, steps=12, step_size=8.0)
    image = run(task)[1]
    free = (image.amin(1) > 0) & (image.amax(1) < 1)
    assert 0.02 < 1 - free.float().mean() < 0.7
    chroma = torch.tensor([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    before, after = (torch.einsum("kc,nchw->nkhw", chroma, each) for each in (photo(), image))
    difference = (after - before).abs().amax(1)
    assert difference[free].max() < 1e-5
    assert ((image - photo()) * LUMINANCE).sum(1).abs().mean() > 0.1


def test_one_step_in_grey_is_that_of_the_formula(network: Network, stored: StoredModel) -> None:
    image = run(make_task(network, stored, layers=LAYERS, keep_colours=True, **ONE_STEP))[1]
    g = gradient(stored, dict.fromkeys(LAYERS, 1.0)).sum(1, keepdim=True)
    expected = (photo() + 1.5 / 255 * g / g.abs().mean()).clamp(0, 1).float()
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)


def test_a_change_in_grey_is_found_again_after_clamping() -> None:
    change = torch.linspace(-0.6, 0.6, 48 * 64).view(1, 1, 48, 64)
    clamped = (photo() + change).clamp(0, 1)
    lost = ((photo() + change) - clamped).ne(0).all(1, keepdim=True)
    found = change_in_grey(clamped, photo()) - photo()
    assert lost.float().mean() < 0.2
    torch.testing.assert_close(found[~lost.expand_as(found)], change.expand_as(found)[~lost.expand_as(found)])


def test_channels_are_chosen_by_their_mean_over_the_start_picture(
    network: Network, stored: StoredModel
) -> None:
    """Against numpy, and the dream is that of the channels chosen, from the first step to the last."""
    layer = "features.relu3_1"
    task = make_task(network, stored, layers=[layer], strongest=3, weakest=2)
    _, results = techniques.run(deepdream(task))
    features = values(network, photo(), layer)[0].numpy().astype(np.float64)
    means, live = features.mean((1, 2)), features.any((1, 2))
    order = [int(channel) for channel in np.argsort(means) if live[channel]]
    chosen = [*order[::-1][:3], *order[:2]]
    (said,) = results["dream"].layers
    assert (said.layer, list(said.channels)) == (layer, chosen)
    np.testing.assert_allclose(said.means, means[chosen], rtol=1e-5)
    assert torch.equal(results["image"], run(make_task(network, stored, layers=[layer], channels=chosen))[1])


def test_silent_channels_are_not_chosen_and_none_is_chosen_twice() -> None:
    """As their norm has no gradient, a dream of them would be the picture itself."""
    features = torch.zeros(1, 5, 2, 2)
    features[0, [1, 2, 4]] = torch.tensor([3.0, -1.0, 2.0]).view(3, 1, 1)
    features[0, 2, 0, 0] = 1
    assert excited(features, 1, 0).channels == [1]
    assert excited(features, 0, 2) == ([2, 4], [-0.5, 2.0])
    assert excited(features, 2, 9).channels == [1, 4, 2]
    assert excited(torch.tensor([[0.0, 2.0, 1.0]]), 0, 1).channels == [2]


def test_each_layer_has_channels_of_its_own(network: Network, stored: StoredModel) -> None:
    _, results = techniques.run(deepdream(make_task(network, stored, layers=LAYERS, strongest=2, steps=1)))
    assert [(each.layer, len(each.channels)) for each in results["dream"].layers] == [(n, 2) for n in LAYERS]
    assert "dream" not in techniques.run(deepdream(make_task(network, stored, steps=1)))[1]
