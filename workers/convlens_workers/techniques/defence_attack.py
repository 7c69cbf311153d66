"""Attacks on a defended network: one that does not know of the defence, and one that does."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts.attacks import (
    certified,
    class_indices,
    classifier,
    cross_entropy,
    gradients,
    predicted,
    stacked,
    untargeted,
)
from convlens_workers.techniques.parts.balls import BALLS, inside, moved
from convlens_workers.techniques.parts.defences import defence
from convlens_workers.techniques.parts.loop import Losses, optimise

Params = adversarial_pb2.DefenceAttack
BALL = BALLS[0]
PLAIN, ADAPTIVE = "plain", "adversarial"


def defence_attack(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """PGD (Madry et al. 2018) through the network alone, and by BPDA through the defence as well.

    Backward pass differentiable approximation (Athalye, Carlini & Wagner 2018, arXiv:1802.00420) with the
    identity for the defence d: where the gradient of L(f(d(x))) is asked for, that of L(f(z)) at z = d(x) is
    taken. Both attacks start at the same random point of the ball and take all their steps; their last points
    are judged.

    Args:
        task: `images["images[i]"]`, all of one size.
        state: of the last step, to go on from.

    Returns:
        "original", "plain" and "adversarial" (N, 3, H, W); report "defence".

    Raises:
        InvalidArgument: pictures of different sizes, or labels that are not one a picture.
    """
    attack = Attack(task)
    held = yield from optimise([attack], state, task.seed, task.device)
    return attack.results(held)


class Attack:
    """Both attacks, side by side."""

    def __init__(self, task: Task[Params]) -> None:
        params = task.params
        self.steps = params.steps
        self._task = task
        self._images = stacked(task, "defence_attack.images")
        labels = class_indices(params.labels, len(self._images), "defence_attack.labels")
        self._labels = labels.to(task.device)
        self._classify = classifier(task.network)
        self._defend = defence(params.defence)
        self._step_size = params.step_size if params.HasField("step_size") else params.epsilon / 4

    def start(self, _: State, rng: torch.Generator) -> State:
        """A random point of the ball."""
        noise = inside(BALL, rng, self._images, self._task.params.epsilon)
        begin = (self._images + noise).clamp(0, 1)
        return {PLAIN: begin, ADAPTIVE: begin}

    def advance(self, held: State, _: torch.Generator) -> tuple[State, Losses]:
        """A step of each."""
        seen = {PLAIN: held[PLAIN], ADAPTIVE: self._defend(held[ADAPTIVE])}
        following, losses = {}, {}
        for name, found in held.items():
            values, gradient = gradients(
                seen[name], lambda some, which: cross_entropy(self._classify(some), self._labels[which])
            )
            to = found + self._step_size * BALL.direction(gradient)
            following[name] = moved(self._images, to, BALL, self._task.params.epsilon)
            losses[name] = values.mean()
        return following, losses

    def picture(self, held: State) -> Tensor:
        """The first image under BPDA."""
        return held[ADAPTIVE][:1]

    def results(self, held: State) -> Results:
        """Artifacts and report."""
        original, plain, adaptive = self._images, held[PLAIN], held[ADAPTIVE]
        clean, bare = self._right(original, defended=True), self._right(original, defended=False)
        report = adversarial_pb2.DefenceReport(
            clean_accuracy=_share(clean),
            plain_accuracy=_share(clean & self._right(plain, defended=True)),
            accuracy=_share(clean & self._right(adaptive, defended=True)),
            undefended_accuracy=_share(bare & self._right(plain, defended=False)),
            certificates=certified(
                self._defended,
                self._task.manifest,
                original,
                adaptive,
                untargeted(self._labels),
                queries=self.steps,
            ),
        )
        return {"original": original, PLAIN: plain, ADAPTIVE: adaptive, "defence": report}

    def _defended(self, images: Tensor) -> Tensor:
        return self._classify(self._defend(images))

    def _right(self, images: Tensor, *, defended: bool) -> Tensor:
        """Whether each image is classified as its label, (N)."""
        return predicted(self._defended if defended else self._classify, images) == self._labels


def _share(found: Tensor) -> float:
    return float(found.float().mean())
