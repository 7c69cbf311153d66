"""What accuracy is left when several attacks, none of which has anything to tune, have all had their turn."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import attacks
from convlens_workers.techniques.parts.apgd import Apgd, away, towards
from convlens_workers.techniques.parts.balls import BALLS
from convlens_workers.techniques.parts.ensemble import Attack, EnsembleBatch
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.square import Square

Params = adversarial_pb2.AttackEnsemble
MEMBERS: Final = ("apgd_ce", "apgd_t", "square")
STANDING, WRONG_BEFORE = -1, -2
"""What stands in "breaker" where there is no attack's place in MEMBERS."""
INNER: Final = "at."
"""What the names of an attack's own tensors begin with."""


def attack_ensemble(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """The pointwise worst case of APGD-CE, APGD-T and Square (Croce & Hein 2020, arXiv:2003.01690).

    An image leaves as soon as an attack has made the network wrong about it; the next attack gets only those
    that stand. Images that the network is wrong about to begin with are not attacked, and count as not right.

    Returns:
        "original" and "adversarial" (N, 3, H, W), the first point that broke each image, or the image itself
        where none did; report "ensemble".
    """
    ensemble = EnsembleStage(task)
    held = yield from optimise(ensemble.stages(), state, task.seed, task.device)
    return ensemble.results(held)


class EnsembleStage:
    """The images, and the attacks that they are to withstand."""

    def __init__(self, task: Task[Params]) -> None:
        self._task, params = task, task.params
        self.classify = attacks.classifier(task.network)
        images = attacks.stacked(task, "images")
        labels = torch.tensor(params.labels).to(task.device)
        scores = attacks.probabilities(self.classify, images)
        self.right = scores.argmax(1) == labels
        others = scores.scatter(1, labels[:, None], -1.0)
        rivals = others.topk(min(params.targets, scores.shape[1] - 1)).indices
        self.all = EnsembleBatch(images, labels, rivals)

    def stages(self) -> list[EnsembleAttack]:
        """Each attack in turn, APGD-T once for each rival; they end where they find no image standing."""
        params = self._task.params
        ball, steps = BALLS[params.norm], params.steps
        epsilon = params.epsilon if params.HasField("epsilon") else ball.epsilon
        members: list[Attack] = [Apgd("apgd_ce", self.classify, away, ball, epsilon, steps)]
        for rival in range(self.all.rivals.shape[1]):
            members.append(Apgd("apgd_t", self.classify, towards(rival), ball, epsilon, steps, rival))
        if params.queries:
            members.append(Square(self.classify, params.norm, epsilon, params.queries))
        return [EnsembleAttack(self, attack) for attack in members]

    def results(self, held: State) -> Results:
        """The artifacts and the report, from the last state."""
        task, params = self._task, self._task.params
        breaker, spent = held["breaker"], held["spent"].tolist()
        names = MEMBERS if params.queries else MEMBERS[:-1]
        report = adversarial_pb2.EnsembleReport(
            clean_accuracy=attacks.share(self.right),
            accuracy=attacks.share(breaker == STANDING),
            members=[
                adversarial_pb2.EnsembleMember(
                    attack=name,
                    attacked=int(((breaker == STANDING) | (breaker >= member)).sum()),
                    broken=int((breaker == member).sum()),
                    queries=spent[member],
                    accuracy=attacks.share((breaker == STANDING) | (breaker > member)),
                )
                for member, name in enumerate(names)
            ],
            certificates=attacks.certified(
                self.classify,
                task.manifest,
                self.all.images,
                held["adversarial"],
                attacks.untargeted(self.all.labels, task.manifest),
                queries=held["queries"].tolist(),
            ),
        )
        return {"original": self.all.images, "adversarial": held["adversarial"], "ensemble": report}


class EnsembleAttack:
    """One attack on what stands; a stage of the loop."""

    def __init__(self, ensemble: EnsembleStage, attack: Attack) -> None:
        self._ensemble, self._attack = ensemble, attack
        self._member = MEMBERS.index(attack.name)
        self.steps = attack.steps

    def start(self, last: State, rng: torch.Generator) -> State:
        """The attack's beginning, for the images that stand."""
        batch = self._ensemble.all
        kept = _outer(last) or {
            "adversarial": batch.images,
            "breaker": torch.where(self._ensemble.right, STANDING, WRONG_BEFORE),
            "queries": torch.zeros_like(batch.labels),
            "spent": torch.zeros_like(batch.labels[:1]).repeat(len(MEMBERS)),
        }
        which = (kept["breaker"] == STANDING).nonzero()[:, 0]
        return self._with(kept, which, self._attack.begin(batch[which], rng), 0) if len(which) else kept

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step of the attack; nothing where no image stands."""
        if INNER + "which" in held:
            kept = _outer(held)
            points = {name.removeprefix(INNER): held[name] for name in held if name not in kept}
            which, number = points.pop("which"), int(points.pop("number")) + 1
            points = self._attack.advance(self._ensemble.all[which], points, number, rng)
            held = self._with(kept, which, points, number)
        return held, {"accuracy": (held["breaker"] == STANDING).float().mean()}

    def picture(self, held: State) -> Tensor:
        """The first image: as it was, until it is broken."""
        return held["adversarial"][:1]

    def _with(self, kept: State, which: Tensor, points: State, number: int) -> State:
        """The state after a step: broken images are done, the others' points are held."""
        broken, passes = points["wrong"], points["passes"]
        kept = {
            "adversarial": kept["adversarial"].index_copy(0, which[broken], points["found"][broken]),
            "breaker": kept["breaker"].index_fill(0, which[broken], self._member),
            "queries": kept["queries"].index_add(0, which, passes),
            "spent": kept["spent"].index_add(0, which.new_tensor([self._member]), passes.sum()[None]),
        }
        if broken.all():
            return kept
        held = {name: value[~broken] for name, value in points.items()}
        inner = {**held, "which": which[~broken], "number": torch.tensor(number)}
        return kept | {INNER + name: value for name, value in inner.items()}


def _outer(held: State) -> State:
    """The state without an attack's own tensors."""
    return {name: value for name, value in held.items() if not name.startswith(INNER)}
