"""The embedded model: its drawings, its training, its weights and its card."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from convlens_models.architectures.patterns import Patterns
from convlens_models.network import load_network
from convlens_models.patterns import train
from convlens_models.patterns.card import BEGIN, END, Card, rewrite
from convlens_models.patterns.draw import LABELS, SIZE, draw
from convlens_models.patterns.folding import folded, with_batch_norm
from convlens_models.repository import ModelRepository

HERE = Path(train.__file__).parent
PAGE = Path(__file__).parents[2] / "docs/reference/patterns-model-card.md"
FRESH = 987  # a seed that neither training nor the card used


@pytest.fixture(scope="module")
def network() -> Patterns:
    net = load_network(ModelRepository().get()).module
    assert isinstance(net, Patterns)
    return net


@pytest.mark.parametrize("label", LABELS)
def test_each_class_draws_varied_pictures_in_range(label: str) -> None:
    images = draw(label, 4, (FRESH,))
    assert images.shape == (4, 3, SIZE, SIZE)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images.std((2, 3)).max(1) > 0.02).all(), "a blank sheet"
    assert np.abs(np.diff(images, axis=0)).mean((1, 2, 3)).min() > 0.02, "two pictures alike"


@pytest.mark.parametrize("label", ["plaid", "cat", "key"])
def test_a_seed_gives_the_same_pictures_again_and_another_seed_others(label: str) -> None:
    assert np.array_equal(draw(label, 3, (1, 2)), draw(label, 3, (1, 2)))
    assert not np.array_equal(draw(label, 3, (1, 2)), draw(label, 3, (1, 3)))


def test_pictures_come_in_other_sizes() -> None:
    assert draw("eye", 2, (FRESH,), size=64).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("label", "down", "across"),
    [("horizontal", 1, 0), ("vertical", 0, 1), ("rising", 1, 1), ("falling", 1, -1)],
)
def test_stripes_lie_as_their_name_says(label: str, down: int, across: int) -> None:
    """The brightness changes across the stripes: fastest along (down, across), on the screen."""
    grey = draw(f"{label} stripes", 16, (FRESH,)).mean(1)
    gy, gx = np.gradient(grey, axis=(1, 2))
    tensor = np.stack([(gy * gy - gx * gx).mean((1, 2)), 2 * (gy * gx).mean((1, 2))])
    towards = np.array([down**2 - across**2, 2 * down * across]) / (down**2 + across**2)
    alignment = towards @ (tensor / np.linalg.norm(tensor, axis=0))
    assert np.median(alignment) > 0.9


def test_there_are_enough_classes_and_few_enough_parameters() -> None:
    assert len(set(LABELS)) >= 40
    assert sum(p.numel() for p in Patterns(len(LABELS)).parameters()) <= 1_000_000


@pytest.mark.parametrize("size", [(96, 96), (64, 80), (131, 97)])
def test_the_network_takes_images_of_any_size(network: Patterns, size: tuple[int, int]) -> None:
    assert network(torch.zeros(2, 3, *size)).shape == (2, len(LABELS))


def test_folding_keeps_the_outputs() -> None:
    torch.manual_seed(0)
    net = with_batch_norm(Patterns(5))
    for _ in range(3):
        net(torch.randn(8, 3, 32, 32))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    image = torch.randn(2, 3, 32, 32)
    plain = folded(net.eval())
    assert not [m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(plain(image), net(image), rtol=1e-4, atol=1e-4)


def test_a_short_training_learns_and_repeats() -> None:
    labels = ("horizontal stripes", "clouds")
    losses = [loss for _, loss, _, _ in train.train(labels, steps=10, seed=3)]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    again = [loss for _, loss, _, _ in islice(train.train(labels, steps=10, seed=3), 2)]
    assert again == pytest.approx(losses[:2], rel=1e-5)


def test_the_weights_know_drawings_that_they_never_saw(network: Patterns) -> None:
    table = train.confusion(network, LABELS, 10, FRESH)
    assert table.sum() == 10 * len(LABELS)
    assert table.diag().sum() / table.sum() >= 0.95


def test_the_labels_and_the_card_are_those_of_the_weights(network: Patterns) -> None:
    card = Card.read(HERE / "card.json")
    assert ModelRepository().get().manifest.labels == tuple(LABELS) == tuple(card.classes)
    assert card.parameters == sum(p.numel() for p in network.parameters())
    assert card.accuracy == pytest.approx(np.mean([c.right for c in card.classes.values()]) / 100)
    assert card.accuracy >= 0.95


def test_the_page_shows_the_card() -> None:
    page = PAGE.read_text()
    assert rewrite(page, Card.read(HERE / "card.json")) == page


def test_rewriting_a_page_changes_only_the_table() -> None:
    card = Card.read(HERE / "card.json")
    page = rewrite(f"before\n{BEGIN}\nold\n{END}\nafter\n", card)
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert "old" not in page
    assert "| traffic light |" in page


def test_the_first_filters_are_smooth(network: Patterns) -> None:
    """Neighbouring weights agree: edges and blobs, not noise, for which this correlation is 0."""
    weights = network.state_dict()["features.conv1.weight"]
    centred = weights - weights.mean((2, 3), keepdim=True)
    agree = (centred[..., 1:] * centred[..., :-1]).sum() / (centred[..., 1:] * centred[..., 1:]).sum()
    assert agree > 0.4
