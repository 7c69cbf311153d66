"""Attacks on a defended network: one that does not know of the defence, and one that does."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import attacks
from convlens_workers.techniques.parts.balls import Linf, inside, moved
from convlens_workers.techniques.parts.defences import defence
from convlens_workers.techniques.parts.loop import Losses, optimise

Params = adversarial_pb2.DefenceAttack
BALL: Final = Linf()
PLAIN, ADAPTIVE = "plain", "adversarial"


def defence_attack(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """PGD (Madry et al. 2018) through the network alone, and by BPDA through the defence as well.

    Backward pass differentiable approximation (Athalye, Carlini & Wagner 2018, arXiv:1802.00420) with the
    identity for the defence d: where the gradient of L(f(d(x))) is asked for, that of L(f(z)) at z = d(x) is
    taken. Both attacks start at the same random point of the ball and take all their steps; their last points
    are judged.

    Returns:
        "original", "plain" and "adversarial" (N, 3, H, W); report "defence".
    """
    both = BothAttacks(task)
    held = yield from optimise([both], state, task.seed, task.device)
    return both.results(held)


class BothAttacks:
    """The two attacks, side by side: the one stage of the loop."""

    def __init__(self, task: Task[Params]) -> None:
        params = task.params
        self.steps = params.steps
        self._task = task
        self._images = attacks.stacked(task, "images")
        self._labels = torch.tensor(params.labels).to(task.device)
        self._classify = attacks.classifier(task.network)
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
        for name, images in held.items():
            values, gradient = attacks.loss_gradients(self._classify, seen[name], self._labels)
            to = images + self._step_size * BALL.direction(gradient)
            following[name] = moved(self._images, to, BALL, self._task.params.epsilon)
            losses[name] = values.mean()
        return following, losses

    def picture(self, held: State) -> Tensor:
        """The first image under BPDA."""
        return held[ADAPTIVE][:1]

    def results(self, held: State) -> Results:
        """The artifacts and the report, from the last state."""
        original, plain, adaptive = self._images, held[PLAIN], held[ADAPTIVE]
        clean, bare = self._right(self._defended, original), self._right(self._classify, original)
        report = adversarial_pb2.DefenceReport(
            clean_accuracy=attacks.share(clean),
            plain_accuracy=attacks.share(clean & self._right(self._defended, plain)),
            accuracy=attacks.share(clean & self._right(self._defended, adaptive)),
            undefended_accuracy=attacks.share(bare & self._right(self._classify, plain)),
            certificates=attacks.certified(
                self._defended,
                self._task.manifest,
                original,
                adaptive,
                attacks.untargeted(self._labels, self._task.manifest),
                queries=self.steps,
            ),
        )
        return {"original": original, PLAIN: plain, ADAPTIVE: adaptive, "defence": report}

    def _defended(self, images: Tensor) -> Tensor:
        return self._classify(self._defend(images))

    def _right(self, classify: attacks.Classifier, images: Tensor) -> Tensor:
        """Whether each image is classified as its label, (N)."""
        return ~attacks.met(attacks.untargeted(self._labels, self._task.manifest), classify, images)
