"""Expectation over transformation: changes that survive being turned, scaled, tilted and lit.

Athalye, Engstrom, Ilyas, Kwok: Synthesizing robust adversarial examples (2018), arXiv:1707.07397.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2, attack_pb2
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import camera
from convlens_workers.techniques.parts.attacks import (
    Classifier,
    certified,
    class_indices,
    classifier,
    cross_entropy,
    gradients,
    probabilities,
    stacked,
    targeted,
)
from convlens_workers.techniques.parts.balls import BALLS, moved, radius
from convlens_workers.techniques.parts.loop import Losses, optimise, own_generator
from convlens_workers.techniques.parts.optimisers import VARIABLE

Params = adversarial_pb2.ExpectationAttack
FIELD: Final = "expectation_attack"
EPSILONS: Final = {attack_pb2.NORM_L2: 8.0}
USUAL_EPSILON: Final = 16 / 255
REACH: Final = 2.5
"""How often all steps together cross the radius: a step is this x epsilon / steps (Madry et al. 2018)."""
NAIVE, FOUND, CURVE = "naive", "adversarial", "probabilities"


def expectation_attack(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """x <- clip(x0 + P(x + a direction(g) - x0), 0, 1), g the gradient of the mean of log P(target | t(x)).

    The mean is over transforms t, drawn anew for each step. First the same without transforms, for all
    images at once; then image after image; then the probabilities at each angle, under held-out transforms.

    Args:
        task: "images[i]" of one size, (1, 3, H, W) in [0, 1].
        state: of the last step, to go on from.

    Returns:
        "original", "naive" and "adversarial" (N, 3, H, W) in [0, 1]; "angles" (A) in degrees against the
        clock; "probabilities" (3, N, A) of the targets; and "attack", the certificates of "adversarial".

    Raises:
        InvalidArgument: images of different sizes, targets that do not match them, or epsilon above 1 in
            L-infinity.
    """
    aim = Objective(task)
    images = [Expectation(aim, position) for position in range(len(aim.images))]
    angles = [AtAngle(aim, position) for position in range(task.params.angles)]
    held = yield from optimise([Naive(aim), *images, *angles], state, task.seed, task.device)
    found, queries = held[FOUND], task.params.steps * task.params.samples
    certificates = certified(
        aim.classify, task.manifest, aim.images, found, targeted(aim.targets), queries=queries
    )
    return {
        "original": aim.images,
        NAIVE: held[NAIVE],
        FOUND: found,
        "angles": aim.angles,
        CURVE: held[CURVE],
        "attack": attack_pb2.AttackResult(certificates=certificates),
    }


class Objective:
    """What is attacked, and how far."""

    def __init__(self, task: Task[Params]) -> None:
        params = task.params
        self.task = task
        self.params = params
        self.images = stacked(task, f"{FIELD}.images")
        self.targets = class_indices(params.targets, len(self.images), f"{FIELD}.targets", one_for_all=True)
        given = params.epsilon if params.HasField("epsilon") else EPSILONS.get(params.norm, USUAL_EPSILON)
        self.epsilon = radius(params.norm, given, f"{FIELD}.epsilon")
        self.classify: Classifier = classifier(task.network)

    @cached_property
    def angles(self) -> Tensor:
        """Of the curve, in degrees; one alone is upright."""
        reach, count = self.params.transforms.rotation, self.params.angles
        return torch.linspace(-reach, reach, count) if count > 1 else torch.zeros(1)

    def stepped(self, original: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        """`x` after a step against `gradient`, within the ball around `original`."""
        ball, length = BALLS[self.params.norm], REACH * self.epsilon / self.params.steps
        return moved(original, x - length * ball.direction(gradient), ball, self.epsilon)

    def viewed(self, rng: torch.Generator, count: int, angle: float | None = None) -> View:
        """`count` random views."""
        ranges, size = self.params.transforms, (self.images.shape[2], self.images.shape[3])
        return View(camera.poses(ranges, count, size, rng, angle), camera.light(ranges, count, size, rng))


@dataclass(frozen=True)
class View:
    """Poses, and the light in which they are seen."""

    pose: Tensor
    light: camera.Light

    def __call__(self, images: Tensor, which: slice = slice(None)) -> Tensor:
        """Images (n, 3, H, W), those of the views `which`; or one image, in all these views."""
        return self.light(camera.seen(images, self.pose[which]), which)


@dataclass(frozen=True)
class Naive:
    """The attack without transforms, on all images at once."""

    aim: Objective

    @property
    def steps(self) -> int:
        """How many."""
        return self.aim.params.steps

    def start(self, last: State, rng: torch.Generator) -> State:
        """The images themselves."""
        return {NAIVE: self.aim.images}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step towards the targets."""
        aim, x = self.aim, held[NAIVE]
        values, gradient = gradients(
            x, lambda some, which: cross_entropy(aim.classify(some), aim.targets[which])
        )
        return {NAIVE: aim.stepped(aim.images, x, gradient)}, {"naive": values.mean()}

    def picture(self, held: State) -> Tensor:
        """The first one."""
        return held[NAIVE][:1]


@dataclass(frozen=True)
class Expectation:
    """The attack on one image, under transforms; finished images lie before it in the state."""

    aim: Objective
    position: int

    @property
    def steps(self) -> int:
        """How many."""
        return self.aim.params.steps

    @property
    def original(self) -> Tensor:
        """The image, (1, 3, H, W)."""
        return self.aim.images[self.position : self.position + 1]

    def start(self, last: State, rng: torch.Generator) -> State:
        """The image itself, and a generator that goes on alike whatever was drawn for those before it."""
        rng.set_state(own_generator(self.aim.task.seed, self.original, "transforms").get_state())
        return {NAIVE: last[NAIVE], FOUND: finished(last), VARIABLE: self.original}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step towards the target, as seen under new transforms."""
        aim, samples, x = self.aim, self.aim.params.samples, held[VARIABLE]
        view, target = aim.viewed(rng, samples), aim.targets[self.position].expand(samples)
        values, gradient = gradients(
            x.expand(samples, -1, -1, -1),
            lambda some, which: cross_entropy(aim.classify(view(some, which)), target[which]),
        )
        step = aim.stepped(self.original, x, gradient.mean(0, keepdim=True))
        return {**held, VARIABLE: step}, {"expectation": values.mean()}

    def picture(self, held: State) -> Tensor:
        """The image as it is."""
        return held[VARIABLE]


@dataclass(frozen=True)
class AtAngle:
    """The probability of its target for each image at one angle, the mean over held-out transforms."""

    aim: Objective
    position: int

    @property
    def steps(self) -> int:
        """One: all images."""
        return 1

    def start(self, last: State, rng: torch.Generator) -> State:
        """What has been found, and the curves so far."""
        empty = self.aim.images.new_empty(3, len(self.aim.images), 0)
        return {NAIVE: last[NAIVE], FOUND: finished(last), CURVE: last.get(CURVE, empty)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """The same transforms for all."""
        aim, angle = self.aim, self.aim.angles[self.position]
        rng = camera.held_out(aim.task.seed, self.position)
        view = aim.viewed(rng, aim.params.held_out, float(angle))
        values = torch.stack(
            [self._probabilities(view, some) for some in (aim.images, held[NAIVE], held[FOUND])]
        )
        names = ("p_original", "p_naive", "p_adversarial")
        curve = torch.cat([held[CURVE], values[..., None]], 2)
        return {**held, CURVE: curve}, dict(zip(names, values.mean(1), strict=True))

    def picture(self, held: State) -> Tensor:
        """The first one, turned."""
        angle, one = self.aim.angles[self.position : self.position + 1], torch.ones(1)
        first = held[FOUND][:1]
        return camera.seen(first, camera.turned(angle, one, (first.shape[2], first.shape[3])))

    def _probabilities(self, view: View, images: Tensor) -> Tensor:
        found = [probabilities(self.aim.classify, view(image[None])).mean(0) for image in images]
        return torch.stack(found).gather(1, self.aim.targets.to(images.device)[:, None])[:, 0]


def finished(held: State) -> Tensor:
    """The images that have been attacked so far, (n, 3, H, W)."""
    before = held.get(FOUND, held[NAIVE][:0])
    return torch.cat([before, held[VARIABLE]] if VARIABLE in held else [before])
