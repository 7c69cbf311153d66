"""Dreams that a guide leads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.dreams import make_task, photo, run, values
from torch import Tensor

from convlens_models.network import Network, load_network
from convlens_models.repository import StoredModel
from convlens_workers.techniques.parts.guide import best_matches


def test_each_position_grows_along_the_feature_of_the_guide_that_it_is_most_like(
    network: Network, stored: StoredModel
) -> None:
    """Against a loop over positions, in float64."""
    layer, guide = "features.relu3_1", photo(40, 40).flip(3)
    double = load_network(stored).double()
    x = photo().double().requires_grad_()
    ours, theirs = values(double, x, layer)[0].flatten(1), values(double, guide.double(), layer)[0].flatten(1)
    wanted = torch.stack([max(theirs.T, key=lambda b, a=a: float(a @ b)) for a in ours.detach().T], dim=1)
    value = (ours * wanted).sum() / wanted.norm()
    value.backward()
    expected = (photo() + 1.5 / 255 * x.grad / x.grad.abs().mean()).clamp(0, 1)
    one = {"octaves": 1, "jitter": 0, "steps": 1, "step_size": 1.5}
    task = make_task(network, stored, guide=guide, layers=[layer], **one)
    steps, image = run(task)
    assert float(steps[0].losses[layer]) == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(image, expected.float(), rtol=0, atol=2e-5)


def test_a_picture_comes_to_be_like_its_guide(network: Network, stored: StoredModel) -> None:
    """Mean cosine of its features with the best ones of a picture of stripes."""
    layer = "features.relu3_1"
    guide = (torch.arange(48) // 4 % 2).float().expand(1, 3, 48, 48)
    dreams = [
        run(make_task(network, stored, guide=one, layers=[layer], step_size=6.0))[1] for one in (None, guide)
    ]
    theirs = values(network, guide, layer)[0].flatten(1)
    alike = []
    for image in (photo(), *dreams):
        ours = values(network, image, layer)[0].flatten(1)
        cosines = torch.cosine_similarity(ours, best_matches(ours, theirs), dim=0)
        alike.append(cosines.mean().item())
    assert alike[2] > max(alike[:2])


def test_matches_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = torch.randn(5, 70), torch.randn(5, 11)
    expected = theirs[:, (ours.T @ theirs).argmax(1)]
    monkeypatch.setattr("convlens_workers.techniques.parts.guide.BLOCK", 100)
    assert torch.equal(best_matches(ours, theirs), expected)


def test_a_large_guide_is_seen_at_the_networks_size(network: Network, stored: StoredModel) -> None:
    sizes = []

    class Watched:
        def taps(self, images: Tensor, layers: list[str]) -> dict[str, Tensor]:
            sizes.append(tuple(images.shape[2:]))
            return network.taps(images, layers)

    task = make_task(network, stored, guide=photo(200, 400), octaves=1, steps=2)
    run(replace(task, network=Watched()))
    side = stored.manifest.input_size
    assert sizes.count((side // 2, side)) == 1
