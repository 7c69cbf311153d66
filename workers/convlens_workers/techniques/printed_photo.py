"""Attacked pictures, printed and photographed: which attacks survive a camera.

Kurakin, Goodfellow, Bengio: Adversarial examples in the physical world (2017), arXiv:1607.02533.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import camera
from convlens_workers.techniques.parts.attacks import (
    classifier,
    cross_entropy,
    gradients,
    predicted,
    probabilities,
    stacked,
)
from convlens_workers.techniques.parts.balls import Linf, moved
from convlens_workers.techniques.parts.defences import jpeg
from convlens_workers.techniques.parts.loop import Losses, Stage, optimise
from convlens_workers.techniques.parts.optimisers import VARIABLE
from convlens_workers.techniques.parts.pixels import blur

Params = adversarial_pb2.PrintedPhoto
EPSILONS: Final = (4 / 255, 8 / 255, 16 / 255)
LEVEL: Final = 1 / 255
"""Length of a step of the attacks that iterate."""
BALL: Final = Linf()
SIDE: Final = 227
"""Of a picture whose blur is the parameter's; larger ones are blurred more."""
SHOWN: Final = "photographs"
JUDGED, UNDONE, CURRENT, TAKEN = "judged", "undone", "current", "taken"
"""Of each series of photographs: prints that count, and photographs of them seen rightly.

And of this series: which prints count, and photographs of each so far."""


def printed_photo(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Each picture is attacked, rounded to 8 bits, and photographed several times.

    FGSM; BIM, and BIM towards the least likely class, by steps of 1/255, min(e + 4, 1.25 e) of them for an
    epsilon of e/255. The n-th photograph of a picture is taken in the same way whatever the attack.

    Args:
        task: "images[i]" of one size, (1, 3, H, W) in [0, 1].
        state: of the last step, to go on from.

    Returns:
        "photographs" (A, E, 3, H, W), the first picture; and "printed", shares of success and destruction.
    """
    aim = Objective(task)
    cells = [(attack, epsilon) for attack in ATTACKS for epsilon in aim.epsilons]
    stages: list[Stage] = [Photographing(aim, attacked=False)]
    for attack, epsilon in cells:
        stages += [Attacking(aim, attack, epsilon), Photographing(aim)]
    held = yield from optimise(stages, state, task.seed, task.device)
    judged, undone = held[JUDGED].tolist(), held[UNDONE].tolist()
    shares = [
        count / (task.params.photographs * max(1, of)) for count, of in zip(undone, judged, strict=True)
    ]
    right = max(1, int(aim.right.sum()))
    rows = [
        adversarial_pb2.PrintedRow(
            attack=attack.name, epsilon=epsilon, success=successes / right, destruction=destruction
        )
        for (attack, epsilon), successes, destruction in zip(cells, judged[1:], shares[1:], strict=True)
    ]
    shown = held[SHOWN][1:].view(len(ATTACKS), len(aim.epsilons), *aim.images.shape[1:])
    return {SHOWN: shown, "printed": adversarial_pb2.PrintedReport(rows=rows, clean_accuracy=shares[0])}


class Objective:
    """What is attacked, and the camera."""

    def __init__(self, task: Task[Params]) -> None:
        self.task = task
        self.params = task.params
        self.classify = classifier(task.network)
        self.images = stacked(task, "images")
        self.labels = torch.tensor(task.params.labels).to(self.images.device)
        self.epsilons = list(task.params.epsilons or EPSILONS)
        found = probabilities(self.classify, self.images)
        self.right = found.argmax(1) == self.labels
        self.unlikely = found.argmin(1)

    def photograph(self, prints: Tensor, number: int) -> Tensor:
        """Prints (N, 3, H, W) as the camera sees them the `number`th time, each in its own way."""
        params, count = self.params, len(prints)
        rng = camera.held_out(self.task.seed, number)
        height, width = prints.shape[2:]
        ranges = adversarial_pb2.Transforms(rotation=params.rotation, perspective=params.perspective)
        pose = camera.filled(camera.poses(ranges, count, (height, width), rng))
        deviation = params.blur * min(height, width) / SIDE * torch.rand(count, generator=rng)
        gamma = params.gamma ** (2 * torch.rand(count, generator=rng) - 1)
        noise = params.noise * torch.randn(prints.shape, generator=rng)
        lit = camera.developed(blur(camera.seen(prints, pose), deviation), gamma)
        return jpeg((lit + noise.to(lit)).clamp(0, 1), params.quality)


@dataclass(frozen=True)
class Attack:
    """One of the three.

    Attributes:
        steps: how many, for an epsilon.
        length: of each.
        towards: whether the class is approached, instead of left.
    """

    name: str
    steps: Callable[[float], int]
    length: Callable[[float], float]
    towards: bool = False


def iterations(epsilon: float) -> int:
    """min(e + 4, 1.25 e) for e = 255 epsilon, at least 1 (section 2.2 of the paper)."""
    levels = epsilon / LEVEL
    return max(1, round(min(levels + 4, 1.25 * levels)))


ATTACKS: Final = (
    Attack("fgsm", lambda _: 1, lambda epsilon: epsilon),
    Attack("bim", iterations, lambda _: LEVEL),
    Attack("least_likely", iterations, lambda _: LEVEL, towards=True),
)


@dataclass(frozen=True)
class Attacking:
    """All pictures, by one attack at one epsilon."""

    aim: Objective
    attack: Attack
    epsilon: float

    @property
    def steps(self) -> int:
        """How many."""
        return self.attack.steps(self.epsilon)

    def start(self, last: State, rng: torch.Generator) -> State:
        """The pictures themselves."""
        return {**kept(last), VARIABLE: self.aim.images}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step of signs."""
        aim, x = self.aim, held[VARIABLE]
        classes = aim.unlikely if self.attack.towards else aim.labels
        values, gradient = gradients(x, lambda some, which: cross_entropy(aim.classify(some), classes[which]))
        length = (
            -self.attack.length(self.epsilon) if self.attack.towards else self.attack.length(self.epsilon)
        )
        step = moved(aim.images, x + length * BALL.direction(gradient), BALL, self.epsilon)
        return {**held, VARIABLE: step}, {self.attack.name: values.mean()}

    def picture(self, held: State) -> Tensor:
        """The first one."""
        return held[VARIABLE][:1]


@dataclass(frozen=True)
class Photographing:
    """Prints of what was attacked, or of the pictures as they are; each step photographs all of them."""

    aim: Objective
    attacked: bool = True

    @property
    def steps(self) -> int:
        """How many."""
        return self.aim.params.photographs

    def start(self, last: State, rng: torch.Generator) -> State:
        """The prints; those that were seen rightly before the attack and are not now, are judged."""
        aim, before = self.aim, kept(last)
        prints = (last[VARIABLE] if self.attacked else aim.images).div(LEVEL).round().mul(LEVEL)
        current = torch.ones_like(aim.right)
        if self.attacked:
            current = aim.right & (predicted(aim.classify, prints) != aim.labels)
        none = torch.zeros(1, dtype=torch.int64, device=prints.device)
        return {
            VARIABLE: prints,
            CURRENT: current,
            TAKEN: none,
            JUDGED: torch.cat([before.get(JUDGED, none[:0]), current.sum()[None]]),
            UNDONE: torch.cat([before.get(UNDONE, none[:0]), none]),
            SHOWN: torch.cat([before.get(SHOWN, prints[:0]), aim.photograph(prints, 0)[:1]]),
        }

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A photograph of each print."""
        aim, taken = self.aim, held[TAKEN]
        seen = predicted(aim.classify, aim.photograph(held[VARIABLE], int(taken))) == aim.labels
        undone = (seen & held[CURRENT]).sum()
        counts = torch.cat([held[UNDONE][:-1], held[UNDONE][-1:] + undone])
        share = undone / held[CURRENT].sum().clamp_min(1)
        return {**held, UNDONE: counts, TAKEN: taken + 1}, {"seen_rightly": share}

    def picture(self, held: State) -> Tensor:
        """The first picture, as it was seen first."""
        return held[SHOWN][-1:]


def kept(held: State) -> State:
    """What is told in the end."""
    return {name: held[name] for name in (JUDGED, UNDONE, SHOWN) if name in held}
