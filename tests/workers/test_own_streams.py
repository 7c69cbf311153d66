"""What a long attack draws for an image follows from the seed and the image, not from its batch."""

from __future__ import annotations

import pytest
import torch
from support import techniques
from support.adversarial import drawings, make_task
from torch import Tensor

from convlens.v1 import adversarial_pb2, attack_pb2
from convlens_workers.techniques.defence_attack import BothAttacks
from convlens_workers.techniques.expectation_attack import expectation_attack
from convlens_workers.techniques.parts.apgd import Apgd, away
from convlens_workers.techniques.parts.balls import BALLS, inside
from convlens_workers.techniques.parts.ensemble import EnsembleBatch
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.square import KEYS, Square

NORMS = [attack_pb2.NORM_LINF, attack_pb2.NORM_L2]
WHOLE, ONE = slice(None), slice(2, 3)


def scored(images: Tensor) -> Tensor:
    """Log-probabilities of four classes, each image by itself; class 0 is never beaten."""
    places = torch.arange(1, images[0].numel() + 1, dtype=images.dtype)
    rows = [
        torch.stack([torch.sin(image.flatten() * places / (k + 1) + k).mean() for k in range(4)])
        for image in images
    ]
    return (torch.stack(rows) + torch.tensor([3.0, 0, 0, 0], dtype=images.dtype)).log_softmax(1)


@pytest.fixture
def batch() -> EnsembleBatch:
    images = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return EnsembleBatch(images, torch.zeros(5, dtype=torch.int64), torch.tensor([[2, 1]] * 5))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["apgd", "square"])
def test_an_image_walks_alike_alone_and_in_a_batch(batch: EnsembleBatch, kind: str, norm: int) -> None:
    attack = (
        Apgd("apgd_ce", scored, away, BALLS[norm], 0.3, 8) if kind == "apgd" else Square(scored, norm, 0.3, 8)
    )

    def walked(which: slice) -> list[Tensor]:
        rng = generator(11)
        points = attack.begin(batch[which], rng)
        found = [points["found"]]
        for number in range(1, attack.steps + 1):
            points = attack.advance(batch[which], points, number, rng)
            found.append(points["found"])
        return found

    together, alone = walked(WHOLE), walked(ONE)
    assert all(torch.equal(many[ONE], one) for many, one in zip(together, alone, strict=True))
    change = together[-1] - batch.images
    assert not torch.equal(change[0], change[1])


def test_a_checkpoint_of_before_has_no_keys_and_goes_on(batch: EnsembleBatch) -> None:
    attack, rng = Square(scored, NORMS[0], 0.3, 4), generator(0)
    points = attack.begin(batch, rng)
    older = {name: value for name, value in points.items() if name != KEYS}
    found = [attack.advance(batch, held, 1, rng)["found"] for held in (points, older)]
    assert torch.equal(*found)


@pytest.mark.parametrize("norm", NORMS)
def test_starts_are_of_the_seed_and_what_they_are_for(batch: EnsembleBatch, norm: int) -> None:
    def starts(seed: int, what: str) -> Tensor:
        return inside(BALLS[norm], generator(seed), batch.images, 0.3, what)

    assert torch.equal(starts(1, "a"), starts(1, "a"))
    assert not torch.equal(starts(1, "a"), starts(2, "a"))
    assert not torch.equal(starts(1, "a"), starts(1, "b"))


def test_the_attack_on_a_defence_starts_alike() -> None:
    def start(count: int) -> Tensor:
        task = make_task(
            *drawings(count),
            lambda labels, images: adversarial_pb2.DefenceAttack(
                images=images, labels=labels, epsilon=0.1, steps=1, defence={"bit_depth": {"bits": 3}}
            ),
        )
        return BothAttacks(task).start({}, generator(7))["adversarial"]

    assert torch.equal(start(3)[:1], start(1))


def test_transforms_are_each_images_own() -> None:
    """The last of three images sees those that it would see alone."""
    network, manifest, images, labels = drawings(3)

    def attacked(which: slice) -> Tensor:
        task = make_task(
            network,
            manifest,
            images[which],
            labels[which],
            lambda labels, images: adversarial_pb2.ExpectationAttack(
                images=images, targets=[1], steps=2, samples=3, held_out=1, angles=1, epsilon=0.1
            ),
        )
        return techniques.finished(expectation_attack(task))["adversarial"]

    assert torch.equal(attacked(slice(0, 3))[2:], attacked(slice(2, 3)))
