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
from convlens_workers.jobs.techniques.printed_photo import EPSILONS, LEVEL, STEPS
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import attacks, camera
from convlens_workers.techniques.parts.balls import Linf, moved
from convlens_workers.techniques.parts.defences import jpeg
from convlens_workers.techniques.parts.loop import Losses, Stage, optimise
from convlens_workers.techniques.parts.optimisers import VARIABLE
from convlens_workers.techniques.parts.pixels import blur

Params = adversarial_pb2.PrintedPhoto
BALL: Final = Linf()
SIDE: Final = 227
"""Side in pixels of a picture whose blur is the parameter's; larger ones are blurred more."""
SHOWN: Final = "photographs"
JUDGED, UNDONE, CURRENT, TAKEN = "judged", "undone", "current", "taken"
"""Of each series of photographs the numbers of prints judged, and of photographs of them seen rightly.

Then of the series under way: which prints are judged, and photographs of each so far."""


def printed_photo(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Each picture is attacked, rounded to 8 bits, and photographed several times.

    FGSM; BIM, and BIM towards the least likely class, by steps of 1/255, min(e + 4, 1.25 e) of them for an
    epsilon of e/255. The n-th photograph of a picture is taken in the same way whatever the attack.

    Returns:
        "photographs" (A, E, 3, H, W), the first picture; and "printed", shares of success and destruction.
    """
    objective, photographs = Objective(task), task.params.photographs
    cells = [(attack, epsilon) for attack in ATTACKS for epsilon in objective.epsilons]
    stages: list[Stage] = [Photographing(objective, photographs, attacked=False)]
    for attack, epsilon in cells:
        stages += [Attacking(objective, attack, epsilon), Photographing(objective, photographs)]
    held = yield from optimise(stages, state, task.seed, task.device)
    judged, undone = held[JUDGED].tolist(), held[UNDONE].tolist()
    shares = [count / (photographs * max(1, of)) for count, of in zip(undone, judged, strict=True)]
    right = max(1, int(objective.right.sum()))
    rows = [
        adversarial_pb2.PrintedRow(
            attack=attack.name, epsilon=epsilon, success=successes / right, destruction=destruction
        )
        for (attack, epsilon), successes, destruction in zip(cells, judged[1:], shares[1:], strict=True)
    ]
    shown = held[SHOWN][1:].view(len(ATTACKS), len(objective.epsilons), *objective.images.shape[1:])
    return {SHOWN: shown, "printed": adversarial_pb2.PrintedReport(rows=rows, clean_accuracy=shares[0])}


class Objective:
    """The pictures that are attacked, and the camera."""

    def __init__(self, task: Task[Params]) -> None:
        self.seed = task.seed
        self.params = task.params
        self.classify = attacks.classifier(task.network)
        self.images = attacks.stacked(task, "images")
        self.labels = torch.tensor(task.params.labels).to(self.images.device)
        self.epsilons = list(task.params.epsilons or EPSILONS)
        scores = attacks.probabilities(self.classify, self.images)
        self.right = scores.argmax(1) == self.labels
        self.unlikely = scores.argmin(1)

    def photograph(self, prints: Tensor, number: int) -> Tensor:
        """Prints (N, 3, H, W) as the camera sees them the `number`th time, each in its own way."""
        params, count = self.params, len(prints)
        rng = camera.held_out(self.seed, number)
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
        length: of each step for an epsilon.
        sign: 1 where the class is left, -1 where it is approached.
    """

    name: str
    length: Callable[[float], float]
    sign: int = 1


ATTACKS: Final = (
    Attack("fgsm", lambda epsilon: epsilon),
    Attack("bim", lambda _: LEVEL),
    Attack("least_likely", lambda _: LEVEL, sign=-1),
)


@dataclass(frozen=True)
class Attacking:
    """All pictures, by one attack at one epsilon."""

    objective: Objective
    attack: Attack
    epsilon: float

    @property
    def steps(self) -> int:
        """Steps of the attack."""
        return STEPS[self.attack.name](self.epsilon)

    def start(self, last: State, rng: torch.Generator) -> State:
        """The pictures themselves."""
        return {**kept(last), VARIABLE: self.objective.images}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step of signs."""
        objective, attack, x = self.objective, self.attack, held[VARIABLE]
        classes = objective.labels if attack.sign > 0 else objective.unlikely
        values, gradient = attacks.loss_gradients(objective.classify, x, classes)
        to = x + attack.sign * attack.length(self.epsilon) * BALL.direction(gradient)
        step = moved(objective.images, to, BALL, self.epsilon)
        return {**held, VARIABLE: step}, {attack.name: values.mean()}

    def picture(self, held: State) -> Tensor:
        """The first picture under attack."""
        return held[VARIABLE][:1]


@dataclass(frozen=True)
class Photographing:
    """Prints of what was attacked, or of the pictures as they are; each step photographs all of them."""

    objective: Objective
    steps: int
    attacked: bool = True

    def start(self, last: State, rng: torch.Generator) -> State:
        """The prints; those that were seen rightly before the attack and are not now, are judged."""
        objective, before = self.objective, kept(last)
        prints = (last[VARIABLE] if self.attacked else objective.images).div(LEVEL).round().mul(LEVEL)
        current = torch.ones_like(objective.right)
        if self.attacked:
            current = objective.right & (attacks.predicted(objective.classify, prints) != objective.labels)
        none = torch.zeros(1, dtype=torch.int64, device=prints.device)
        return {
            VARIABLE: prints,
            CURRENT: current,
            TAKEN: none,
            JUDGED: torch.cat([before.get(JUDGED, none[:0]), current.sum()[None]]),
            UNDONE: torch.cat([before.get(UNDONE, none[:0]), none]),
            SHOWN: torch.cat([before.get(SHOWN, prints[:0]), objective.photograph(prints, 0)[:1]]),
        }

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A photograph of each print."""
        objective, taken = self.objective, held[TAKEN]
        photographs = objective.photograph(held[VARIABLE], int(taken))
        seen = attacks.predicted(objective.classify, photographs) == objective.labels
        undone = (seen & held[CURRENT]).sum()
        counts = torch.cat([held[UNDONE][:-1], held[UNDONE][-1:] + undone])
        share = undone / held[CURRENT].sum().clamp_min(1)
        return {**held, UNDONE: counts, TAKEN: taken + 1}, {"seen_rightly": share}

    def picture(self, held: State) -> Tensor:
        """The first picture, as it was seen first."""
        return held[SHOWN][-1:]


def kept(held: State) -> State:
    """What the report and the result are made from."""
    return {name: held[name] for name in (JUDGED, UNDONE, SHOWN) if name in held}
