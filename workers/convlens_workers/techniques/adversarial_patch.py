"""A round patch that makes a network see one class, wherever it lies.

Brown, Mané, Roy, Abadi, Gilmer: Adversarial patch (2017), arXiv:1712.09665.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_workers.jobs.techniques.adversarial_patch import EVERY, PLACEMENTS
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import attacks, camera
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.optimisers import VARIABLE, adam
from convlens_workers.techniques.parts.pixels import Size

Params = adversarial_pb2.AdversarialPatch
SHOWN: Final = 8
"""Placements that are shown at most."""
DISC, PLACED = "disc", "placements"
KINDS: Final = ("success", "noise_success", "clean_success")
"""What is judged: the patch, a patch of noise, and the pictures as they are."""


def adversarial_patch(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Adam on the mean of -log P(target) over random pictures, places, poses and light.

    Pixels are clipped to [0, 1] after each step.

    Returns:
        "disc" (1, 3, S, S) in [0, 1]; "mask" (1, 1, S, S), 1 within the disc and 0 outside; "pictures" (K, 3,
        H, W), at most 8 held-out placements; and "patch", how often it works.
    """
    objective = Objective(task)
    numbers = range(len(objective.judging))
    learning, judging = Learning(objective, task.params.steps), [Judging(objective, i) for i in numbers]
    held = yield from optimise([learning, *judging], state, task.seed, task.device)
    shown = torch.cat([objective.judged(number, held[DISC])[:1] for number in numbers[:SHOWN]])
    placements = int(held[PLACED])
    report = adversarial_pb2.PatchReport(
        **{name: float(held[name]) / max(1, placements) for name in KINDS}, placements=placements
    )
    return {DISC: held[DISC], "mask": objective.mask, "pictures": shown, "patch": report}


class Objective:
    """What the patch is made from, and judged by."""

    def __init__(self, task: Task[Params]) -> None:
        self.seed = task.seed
        self.params = task.params
        self.manifest = task.manifest
        self.classify = attacks.classifier(task.network)
        self.learning, self.judging = pictures(task)
        self.size: Size = (self.learning.shape[2], self.learning.shape[3])
        self.side = max(1, round(task.params.size * min(self.size)))

    @cached_property
    def mask(self) -> Tensor:
        """A disc (1, 1, S, S), with an edge of one pixel."""
        place = torch.arange(self.side, device=self.learning.device) - (self.side - 1) / 2
        distance = (place[:, None].square() + place.square()).sqrt()
        return (self.side / 2 - distance + 0.5).clamp(0, 1)[None, None]

    def placed(self, count: int, rng: torch.Generator) -> Tensor:
        """Random poses (N, 3, 3) of the patch in pictures, where all of it is seen."""
        ranges = self.params.transforms
        share = self.side / torch.tensor([self.size[1], self.size[0]])
        reach = share * (1 + ranges.scale) / (1 - 2 * ranges.perspective)
        centre = (1 - reach).clamp_min(0) * (2 * torch.rand(count, 2, generator=rng) - 1)
        place = torch.eye(3).repeat(count, 1, 1)
        place[:, :2, :2] = torch.diag(1 / share)
        place[:, :2, 2] = -centre / share
        return camera.poses(ranges, count, (self.side, self.side), rng) @ place

    def covered(self, images: Tensor, patches: Tensor, pose: Tensor) -> Tensor:
        """Images (N, 3, H, W) with patches (N or 1, 3, S, S) on them."""
        disc = torch.cat([patches * self.mask, self.mask.expand(len(patches), -1, -1, -1)], 1)
        placed = camera.seen(disc, pose, self.size, around=0)
        return images * (1 - placed[:, 3:]) + placed[:, :3]

    def judged(self, number: int, patch: Tensor | None) -> Tensor:
        """A picture that judges, with `patch` in each of its places, or without any."""
        rng = camera.held_out(self.seed, number)
        pose = self.placed(PLACEMENTS, rng)
        light = camera.light(self.params.transforms, PLACEMENTS, self.size, rng)
        image = self.judging[number : number + 1].expand(PLACEMENTS, -1, -1, -1)
        return light(image if patch is None else self.covered(image, patch, pose))

    def taken(self, images: Tensor) -> Tensor:
        """Whether each image is taken for the target, (N)."""
        targets = torch.full((len(images),), self.params.target)
        return attacks.met(attacks.targeted(targets, self.manifest), self.classify, images)

    def noise(self, number: int) -> Tensor:
        """A patch of noise, another one for each picture."""
        rng = camera.held_out(self.seed, -1 - number)
        return torch.rand(1, 3, self.side, self.side, generator=rng).to(self.learning)


@dataclass(frozen=True)
class Learning:
    """The patch, made better step by step."""

    objective: Objective
    steps: int

    def start(self, last: State, rng: torch.Generator) -> State:
        """A grey patch."""
        side = self.objective.side
        return {VARIABLE: self.objective.learning.new_full((1, 3, side, side), camera.GREY)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step of Adam along a gradient that was taken in groups, which bounds the memory."""
        objective, params = self.objective, self.objective.params
        count, images = params.samples, objective.learning
        chosen = torch.randint(len(images), (count,), generator=rng)
        pose = objective.placed(count, rng)
        light = camera.light(params.transforms, count, objective.size, rng)
        target = torch.full((count,), params.target)

        def loss(patches: Tensor, which: slice) -> Tensor:
            seen = light(objective.covered(images[chosen[which]], patches, pose[which]), which)
            return attacks.cross_entropy(objective.classify(seen), target[which])

        values, gradients = attacks.gradients(held[VARIABLE].expand(count, -1, -1, -1), loss)
        gradient = gradients.mean(0, keepdim=True)
        after, _ = adam(params.learning_rate).step(held, lambda x: ((x * gradient).sum(), {}))
        return {**after, VARIABLE: after[VARIABLE].clamp(0, 1)}, {"cross_entropy": values.mean()}

    def picture(self, held: State) -> Tensor:
        """The disc on white."""
        return held[VARIABLE] * self.objective.mask + 1 - self.objective.mask


@dataclass(frozen=True)
class Judging:
    """One picture that no step has seen, in places that no step has drawn."""

    objective: Objective
    number: int
    steps = 1

    def start(self, last: State, rng: torch.Generator) -> State:
        """The patch, and what it has done so far."""
        zero = torch.tensor(0, device=self.objective.learning.device)
        counts = {name: last.get(name, zero) for name in (*KINDS, PLACED)}
        return {DISC: last.get(DISC, last.get(VARIABLE, zero)), **counts}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """The counts with those of all places, unless the picture is of the target itself."""
        objective, number = self.objective, self.number
        image = objective.judging[number : number + 1]
        if bool(objective.taken(image)):
            return held, {}
        patches = (held[DISC], objective.noise(number), None)
        counts = {
            name: held[name] + objective.taken(objective.judged(number, patch)).sum()
            for name, patch in zip(KINDS, patches, strict=True)
        }
        return {**held, **counts, PLACED: held[PLACED] + PLACEMENTS}, {}

    def picture(self, held: State) -> Tensor:
        """The picture with the patch in the first of its places."""
        return self.objective.judged(self.number, held[DISC])[:1]


def pictures(task: Task[Params]) -> tuple[Tensor, Tensor]:
    """What is learned from, and what is judged by, (N, 3, H, W) each."""
    images = attacks.stacked(task, "images")
    if task.params.held_out:
        return images, attacks.stacked(task, "held_out")
    judges = torch.arange(len(images)) % EVERY == EVERY - 1
    return images[~judges], images[judges]
