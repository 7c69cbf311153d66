"""Expectation over transformation: changes that survive being turned, scaled, tilted and lit.

Athalye, Engstrom, Ilyas, Kwok: Synthesizing robust adversarial examples (2018), arXiv:1707.07397.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2, attack_pb2
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import attacks, camera
from convlens_workers.techniques.parts.balls import BALLS, moved
from convlens_workers.techniques.parts.loop import Losses, optimise, own_generator
from convlens_workers.techniques.parts.optimisers import VARIABLE

Params = adversarial_pb2.ExpectationAttack
EPSILONS: Final = {attack_pb2.NORM_L2: 8.0}
USUAL_EPSILON: Final = 16 / 255
REACH: Final = 2.5
"""How often all steps together cross the radius: a step is this x epsilon / steps (Madry et al. 2018)."""
View = Callable[[Tensor, slice], Tensor]
"""Images (n, 3, H, W) as seen in those of the views that a slice names; or one image, in all of these."""
ALL: Final = slice(None)
NAIVE, FOUND, CURVE = "naive", "adversarial", "probabilities"


def expectation_attack(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """x <- clip(x0 + P(x + a direction(g) - x0), 0, 1), g the gradient of the mean of log P(target | t(x)).

    The mean is over transforms t, drawn anew for each step. First the same without transforms, for all
    images at once; then image after image; then the probabilities at each angle, under held-out transforms.

    Returns:
        "original", "naive" and "adversarial" (N, 3, H, W) in [0, 1]; "angles" (A) in degrees against the
        clock; "probabilities" (3, N, A) of the targets; and "attack", the certificates of "adversarial".
    """
    objective, steps = Objective(task), task.params.steps
    images = [Expectation(objective, steps, position) for position in range(len(objective.images))]
    angles = [AtAngle(objective, position) for position in range(task.params.angles)]
    held = yield from optimise([Naive(objective, steps), *images, *angles], state, task.seed, task.device)
    certificates = attacks.certified(
        objective.classify,
        task.manifest,
        objective.images,
        held[FOUND],
        attacks.targeted(objective.targets, task.manifest),
        queries=steps * task.params.samples,
    )
    return {
        "original": objective.images,
        NAIVE: held[NAIVE],
        FOUND: held[FOUND],
        "angles": objective.angles,
        CURVE: held[CURVE],
        "attack": attack_pb2.AttackResult(certificates=certificates),
    }


class Objective:
    """The images, their targets, and how far an image may be changed."""

    def __init__(self, task: Task[Params]) -> None:
        params = task.params
        self.seed = task.seed
        self.params = params
        self.images = attacks.stacked(task, "images")
        self.targets = attacks.class_indices(params.targets, len(self.images))
        usual = EPSILONS.get(params.norm, USUAL_EPSILON)
        self.epsilon = params.epsilon if params.HasField("epsilon") else usual
        self.classify = attacks.classifier(task.network)

    @cached_property
    def angles(self) -> Tensor:
        """The angles of the curve in degrees; one alone is upright."""
        reach, count = self.params.transforms.rotation, self.params.angles
        return torch.linspace(-reach, reach, count) if count > 1 else torch.zeros(1)

    def stepped(self, original: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        """`x` after a step against `gradient`, within the ball around `original`."""
        ball, length = BALLS[self.params.norm], REACH * self.epsilon / self.params.steps
        return moved(original, x - length * ball.direction(gradient), ball, self.epsilon)

    def viewed(self, rng: torch.Generator, count: int, angle: float | None = None) -> View:
        """`count` random views, all at one angle in degrees if it is given."""
        ranges, size = self.params.transforms, (self.images.shape[2], self.images.shape[3])
        pose, light = camera.poses(ranges, count, size, rng, angle), camera.light(ranges, count, size, rng)
        return lambda images, which: light(camera.seen(images, pose[which]), which)


@dataclass(frozen=True)
class Naive:
    """The attack without transforms, on all images at once."""

    objective: Objective
    steps: int

    def start(self, last: State, rng: torch.Generator) -> State:
        """Start each attack at its images, without any change, (N, 3, H, W) in [0, 1]."""
        return {NAIVE: self.objective.images}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step towards the targets."""
        objective, x = self.objective, held[NAIVE]
        values, gradient = attacks.loss_gradients(objective.classify, x, objective.targets)
        return {NAIVE: objective.stepped(objective.images, x, gradient)}, {"naive": values.mean()}

    def picture(self, held: State) -> Tensor:
        """The first image under attack."""
        return held[NAIVE][:1]


@dataclass(frozen=True)
class Expectation:
    """The attack on one image, under transforms; finished images lie before it in the state."""

    objective: Objective
    steps: int
    position: int

    @property
    def original(self) -> Tensor:
        """The image, (1, 3, H, W)."""
        return self.objective.images[self.position : self.position + 1]

    def start(self, last: State, rng: torch.Generator) -> State:
        """The image itself, and a generator that goes on alike whatever was drawn for those before it."""
        rng.set_state(own_generator(self.objective.seed, self.original, "transforms").get_state())
        return {NAIVE: last[NAIVE], FOUND: finished(last), VARIABLE: self.original}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step towards the target, as seen under new transforms."""
        objective, samples, x = self.objective, self.objective.params.samples, held[VARIABLE]
        view, target = objective.viewed(rng, samples), objective.targets[self.position].expand(samples)
        values, gradient = attacks.gradients(
            x.expand(samples, -1, -1, -1),
            lambda some, which: attacks.cross_entropy(objective.classify(view(some, which)), target[which]),
        )
        step = objective.stepped(self.original, x, gradient.mean(0, keepdim=True))
        return {**held, VARIABLE: step}, {"expectation": values.mean()}

    def picture(self, held: State) -> Tensor:
        """The image under attack."""
        return held[VARIABLE]


@dataclass(frozen=True)
class AtAngle:
    """The probability of its target for each image at one angle, the mean over held-out transforms."""

    objective: Objective
    position: int
    steps = 1

    def start(self, last: State, rng: torch.Generator) -> State:
        """The attacked images, and the curves so far."""
        empty = self.objective.images.new_empty(3, len(self.objective.images), 0)
        return {NAIVE: last[NAIVE], FOUND: finished(last), CURVE: last.get(CURVE, empty)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """All probabilities at this angle, under the same transforms."""
        objective, angle = self.objective, self.objective.angles[self.position]
        view = objective.viewed(
            camera.held_out(objective.seed, self.position), objective.params.held_out, float(angle)
        )
        series = (objective.images, held[NAIVE], held[FOUND])
        values = torch.stack([self._probabilities(view, images) for images in series])
        names = ("p_original", "p_naive", "p_adversarial")
        curve = torch.cat([held[CURVE], values[..., None]], 2)
        return {**held, CURVE: curve}, dict(zip(names, values.mean(1), strict=True))

    def picture(self, held: State) -> Tensor:
        """The first image at this angle."""
        angle, first = self.objective.angles[self.position : self.position + 1], held[FOUND][:1]
        return camera.seen(first, camera.turned(angle, torch.ones(1), (first.shape[2], first.shape[3])))

    def _probabilities(self, view: View, images: Tensor) -> Tensor:
        """The mean probability of each image's target over all views, (N)."""
        classify, targets = self.objective.classify, self.objective.targets.to(images.device)
        means = [attacks.probabilities(classify, view(image[None], ALL)).mean(0) for image in images]
        return torch.stack(means).gather(1, targets[:, None])[:, 0]


def finished(held: State) -> Tensor:
    """The images that have been attacked so far, (n, 3, H, W)."""
    before = held.get(FOUND, held[NAIVE][:0])
    return torch.cat([before, held[VARIABLE]]) if VARIABLE in held else before
