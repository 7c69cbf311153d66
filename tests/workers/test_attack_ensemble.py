"""APGD against its paper, Square by what it promises, and the ensemble against Foolbox's PGD."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from support import techniques
from support.adversarial import drawings, make_task
from torch import Tensor

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2, attack_pb2
from convlens_workers.techniques import begin
from convlens_workers.techniques.parts.apgd import Apgd, away, checkpoints, towards
from convlens_workers.techniques.parts.attacks import classifier
from convlens_workers.techniques.parts.balls import BALLS, length
from convlens_workers.techniques.parts.ensemble import EnsembleBatch
from convlens_workers.techniques.parts.square import Square, blob

LINF, L2 = attack_pb2.NORM_LINF, attack_pb2.NORM_L2
NORMS = ((LINF, 0.1), (L2, 0.3))


def wavy(images: Tensor) -> Tensor:
    """Log-probabilities of four classes, with many hills; class 0 is never beaten."""
    flat = images.flatten(1)
    places = torch.arange(1, flat.shape[1] + 1, dtype=images.dtype)
    scores = [torch.sin(flat * places / (k + 1) + k).mean(1) for k in range(4)]
    return (torch.stack(scores, 1) + torch.tensor([3.0, 0, 0, 0], dtype=images.dtype)).log_softmax(1)


def batch_of(count: int, side: int = 3) -> EnsembleBatch:
    rng = torch.Generator().manual_seed(3)
    images = torch.rand(count, 3, side, side, generator=rng, dtype=torch.float64)
    return EnsembleBatch(images, torch.zeros(count, dtype=torch.int64), torch.tensor([[2, 1]] * count))


def test_checkpoints_are_the_paper_s() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


def by_the_paper(start: Tensor, image: Tensor, norm: int, epsilon: float, steps: int) -> list[Tensor]:
    """Algorithm 1 for one image, word by word: its iterates x0, x1, ..."""

    def value(x: Tensor) -> tuple[float, Tensor]:
        x = x.detach().requires_grad_()
        loss = -wavy(x)[0, 0]
        return float(loss.detach()), torch.autograd.grad(loss, x)[0]

    def project(x: Tensor) -> Tensor:
        change = x - image
        if norm == LINF:
            change = change.clamp(-epsilon, epsilon)
        elif change.norm() > epsilon:
            change = change * epsilon / change.norm()
        return (image + change).clamp(0, 1)

    def ahead(x: Tensor, eta: float) -> Tensor:
        gradient = value(x)[1]
        return project(x + eta * (gradient.sign() if norm == LINF else gradient / gradient.norm()))

    eta, window_start = 2 * epsilon, 0
    xs = [start, ahead(start, eta)]
    fs = [value(x)[0] for x in xs]
    rises = [fs[1] > fs[0]]
    best, f_max = (xs[1], fs[1]) if rises[0] else (xs[0], fs[0])
    eta_then, f_then = eta, fs[0]
    for k in range(1, steps + 1):
        if k in checkpoints(steps):
            few = sum(rises[window_start:k]) < 0.75 * (k - window_start)
            same = eta == eta_then and f_max == f_then
            eta_then, f_then, window_start = eta, f_max, k
            if few or same:
                eta /= 2
                xs[k], fs[k] = best, f_max
        if k == steps:
            return xs
        z = ahead(xs[k], eta)
        xs.append(project(xs[k] + 0.75 * (z - xs[k]) + 0.25 * (xs[k] - xs[k - 1])))
        fs.append(value(xs[-1])[0])
        rises.append(fs[-1] > fs[-2])
        if fs[-1] > f_max:
            best, f_max = xs[-1], fs[-1]
    return xs


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_apgd_walks_as_algorithm_1_does(norm: int, epsilon: float) -> None:
    steps, batch, rng = 50, batch_of(3), torch.Generator().manual_seed(0)
    attack = Apgd("apgd_ce", wavy, away, BALLS[norm], epsilon, steps)
    points = attack.begin(batch, rng)
    walked = [points]
    for number in range(1, steps + 1):
        points = attack.advance(batch, points, number, rng)
        walked.append(points)
    etas = set()
    for one in range(3):
        start = walked[0]["found"][one : one + 1]
        wanted = by_the_paper(start, batch.images[one : one + 1], norm, epsilon, steps)
        assert all(
            torch.allclose(held["found"][one], x[0], atol=1e-9)
            for held, x in zip(walked, wanted, strict=True)
        )
        etas |= {float(held["eta"][one]) for held in walked}
    assert len(etas) > 2  # It did halve its step, more than once.
    change = torch.stack([held["found"] for held in walked]) - batch.images
    size = change.abs().amax() if norm == LINF else length(change.flatten(0, 1)).amax()
    assert size <= epsilon + 1e-12
    bests = torch.stack([held["best_value"] for held in walked])
    assert (bests.diff(dim=0) >= 0).all()


def test_the_targeted_ratio_is_free_of_scale_and_shift() -> None:
    batch = batch_of(5)
    scores = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ratios = towards(1)(scores, batch)
    assert torch.allclose(towards(1)(7 * scores + 3, batch), ratios)
    ranked = scores.sort(1, descending=True).values
    wanted = (scores[:, 1] - scores[:, 0]) / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2)
    assert torch.allclose(ratios, wanted)
    two = scores[:, :2]
    assert torch.allclose(towards(1)(two, batch), two[:, 1] - two[:, 0])


def test_a_blob_has_two_hills_and_length_one() -> None:
    for side in (1, 3, 4, 7):
        found = blob(side, False)
        assert found.shape == (side, side)
        assert found.norm() == pytest.approx(1)
        assert torch.equal(blob(side, True), found.T)
    hills = blob(7, False)
    assert (hills[:3] > 0).all()
    assert (hills[3:] < 0).all()
    # By hand: 7 columns give n = 3, so that the middle has 1 + 1/4 + 1/9 + 1/16, its neighbour 1 less.
    assert hills[1, 2] / hills[1, 3] == pytest.approx((1 / 4 + 1 / 9 + 1 / 16) / (1 + 1 / 4 + 1 / 9 + 1 / 16))


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_square_stays_in_the_ball_and_its_margin_never_rises(norm: int, epsilon: float) -> None:
    asked = []

    def counted(images: Tensor) -> Tensor:
        asked.append(len(images))
        return wavy(images)

    batch, rng = batch_of(3, side=12), torch.Generator().manual_seed(0)
    attack = Square(counted, norm, epsilon, 60)
    points = attack.begin(batch, rng)
    assert not asked
    walked = []
    for number in range(1, attack.steps + 1):
        points = attack.advance(batch, points, number, rng)
        walked.append(points)
    assert sum(asked) == 3 * 60 == sum(int(held["passes"].sum()) for held in walked)
    for held in walked:
        change = held["found"] - batch.images
        size = change.abs().amax((1, 2, 3)) if norm == LINF else length(change).flatten()
        assert (size <= epsilon + 1e-9).all()
        assert held["found"].min() >= 0
        assert held["found"].max() <= 1
        scores = wavy(held["found"])
        assert torch.allclose(held["margin"], scores[:, 0] - scores[:, 1:].amax(1))
    assert all((later["margin"] <= earlier["margin"]).all() for earlier, later in pairwise(walked))
    assert (walked[-1]["margin"] < walked[0]["margin"]).all()


def test_squares_get_smaller() -> None:
    attack = Square(wavy, LINF, 0.1, 5000)
    sides = [attack.side(number, 100, 100) for number in (1, 5, 6, 26, 101, 251, 501, 1001, 4001)]
    assert sides == [89, 89, 63, 45, 32, 22, 16, 11, 4]


def ensemble(count: int, epsilon: float, **changes: Any):
    settings = {"norm": LINF, "steps": 8, "targets": 2, "queries": 30, **changes}
    return make_task(
        *drawings(count),
        lambda labels, images: adversarial_pb2.AttackEnsemble(
            images=images, labels=labels, epsilon=epsilon, **settings
        ),
    )


def test_what_falls_is_wrong_and_what_stands_is_untouched() -> None:
    task = ensemble(8, 1.5 / 255)
    task.params.labels[0] = (task.params.labels[0] + 1) % 10  # Wrong before.
    results = techniques.finished(begin("attack_ensemble", task))
    report, original, adversarial = results["ensemble"], results["original"], results["adversarial"]
    labels = torch.tensor(task.params.labels)
    guesses = classifier(task.network)(adversarial).argmax(1)
    moved = (original != adversarial).flatten(1).any(1)
    assert 0 < moved.sum() < 7  # Some fall, and some do not.
    assert (guesses[moved] != labels[moved]).all()
    assert (guesses[~moved] == labels[~moved]).tolist() == [False] + [True] * int((~moved).sum() - 1)
    assert (adversarial - original).abs().max() <= 1.5 / 255 + 1e-6
    assert report.clean_accuracy == pytest.approx(7 / 8)
    assert report.accuracy == pytest.approx((7 - int(moved.sum())) / 8)
    assert [member.attack for member in report.members] == ["apgd_ce", "apgd_t", "square"]
    unbroken = 7
    for member in report.members:
        assert member.attacked == unbroken
        unbroken -= member.broken
        assert member.accuracy == pytest.approx(unbroken / 8)
    assert sum(member.queries for member in report.members) == sum(one.queries for one in report.certificates)
    assert report.members[2].queries == 30 * report.members[2].attacked
    assert report.certificates[0].queries == 0


@pytest.mark.parametrize("norm", [LINF, L2])
def test_resumed_while_images_fall_it_ends_in_the_same_bytes(norm: int) -> None:
    task = ensemble(4, 4 / 255 if norm == LINF else 4.0, norm=norm, steps=3, queries=3)
    steps, whole = techniques.run(begin("attack_ensemble", task))
    assert (whole["original"] != whole["adversarial"]).any()
    for step in steps[::2]:
        resumed = techniques.finished(begin("attack_ensemble", task, step.state))
        assert torch.equal(resumed["adversarial"], whole["adversarial"])
        assert resumed["ensemble"] == whole["ensemble"]


def test_it_leaves_no_more_than_foolbox_s_pgd() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`scipy.ndimage.filters` namespace", DeprecationWarning)
        import foolbox
    epsilon = 1.5 / 255
    task = ensemble(8, epsilon, steps=10, queries=0)
    report = techniques.finished(begin("attack_ensemble", task))["ensemble"]
    model = foolbox.PyTorchModel(task.network, bounds=(0, 1), device="cpu")
    images = torch.cat([task.images[f"images[{i}]"] for i in range(8)])
    torch.manual_seed(0)
    pgd = foolbox.attacks.LinfProjectedGradientDescentAttack(steps=10, abs_stepsize=epsilon / 4)
    *_, broken = pgd(model, images, torch.tensor(task.params.labels), epsilons=epsilon)
    assert 0 < broken.sum() < 8
    assert report.accuracy <= 1 - float(broken.float().mean()) + 1e-6


def test_an_epsilon_that_was_meant_as_levels_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"attack_ensemble\.epsilon"):
        techniques.finished(begin("attack_ensemble", ensemble(1, 8.0)))
