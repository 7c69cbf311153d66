"""How attacks on one model fare on others."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2, model_pb2
from convlens_workers.jobs.techniques.transfer_matrix import scaled_size
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import attacks
from convlens_workers.techniques.parts.balls import Linf, length, moved
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.pixels import resize

Params = adversarial_pb2.TransferMatrix
BALL: Final = Linf()
STEP: Final = 1 / 4
"""Length of a step over epsilon; a single step goes the whole way."""


def transfer_matrix(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """PGD (Madry et al. 2018) on each model, from the images themselves, measured on each.

    All models see the same pictures, of the size that the request's model gets: those with another input size
    get them scaled bilinearly by the ratio of the two sizes, in attack and measurement alike. Beside each
    change stand random signs of its L2 length; a sign that would leave [0, 1] is turned, so that the length
    is kept.

    Returns:
        "matrix" and "noise" (A, A), rows: the model attacked, columns: the one asked; of the images right on
        both, the share that becomes wrong, NaN where there are none. Report "transfer" has models and
        accuracies, the request's model first.

    Raises:
        NotFound, FailedPrecondition: a model that is not there any more, or cannot be differentiated.
    """
    panel = Panel(task)
    rows = [Row(panel, number) for number in range(len(panel.models))]
    held = yield from optimise(rows, state, task.seed, task.device)
    accuracies = held["right"].float().mean(1).tolist()
    report = adversarial_pb2.TransferReport(models=panel.models, accuracies=accuracies)
    return {"matrix": held["matrix"], "noise": held["noise"], "transfer": report}


class Panel:
    """The models and the images."""

    def __init__(self, task: Task[Params]) -> None:
        self.params, self._task = task.params, task
        self.images = attacks.stacked(task, "images")
        self.labels = torch.tensor(task.params.labels).to(task.device)
        own = model_pb2.ModelRef(name=task.manifest.name, version=task.manifest.version)
        self.models = [own, *task.params.models]

    def classify(self, number: int) -> attacks.Classifier:
        """Log-probabilities of the model in that place, which the host keeps as long as it has room."""
        task, (height, width) = self._task, self.images.shape[2:]
        model = self.models[number]
        network, manifest = task.host.networks.get(model) if number else (task.network, task.manifest)
        classify, size = attacks.classifier(network), scaled_size((height, width), task.manifest, manifest)
        return lambda images: classify(resize(images, size))

    def right(self, images: Tensor) -> Tensor:
        """Whether each model (rows) classifies each image as its label, (A, N)."""
        classifiers = map(self.classify, range(len(self.models)))
        return torch.stack([attacks.predicted(classify, images) == self.labels for classify in classifiers])


class Row:
    """PGD on one model, and at its end a row of both matrices; a stage of the loop."""

    def __init__(self, panel: Panel, number: int) -> None:
        self._panel, self._number = panel, number
        self.steps = panel.params.steps

    def start(self, last: State, _: torch.Generator) -> State:
        """Start each attack at its images, without any change, (N, 3, H, W) in [0, 1]."""
        panel, count = self._panel, len(self._panel.models)
        empty = torch.full((count, count), torch.nan)
        kept = last or {"right": panel.right(panel.images), "matrix": empty, "noise": empty}
        return {**kept, "found": panel.images, "number": torch.tensor(0)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step up the cross entropy."""
        panel, epsilon = self._panel, self._panel.params.epsilon
        classify = panel.classify(self._number)
        values, gradient = attacks.loss_gradients(classify, held["found"], panel.labels)
        size, number = epsilon if self.steps == 1 else epsilon * STEP, held["number"] + 1
        step = moved(panel.images, held["found"] + size * BALL.direction(gradient), BALL, epsilon)
        after = {**held, "found": step, "number": number}
        if number == self.steps:
            after |= self._measured(after, rng)
        return after, {"cross_entropy": values.mean()}

    def picture(self, held: State) -> Tensor:
        """The first image under attack."""
        return held["found"][:1]

    def _measured(self, held: State, rng: torch.Generator) -> State:
        """Both matrices with this row."""
        panel, right = self._panel, held["right"]
        noise = noise_like(panel.images, held["found"] - panel.images, rng)
        attacked = {"matrix": held["found"], "noise": panel.images + noise}
        both = right & right[self._number]
        matrices = {name: held[name].clone() for name in attacked}
        for name, images in attacked.items():
            matrices[name][self._number] = (both & ~panel.right(images)).sum(1) / both.sum(1)
        return matrices


def noise_like(images: Tensor, change: Tensor, rng: torch.Generator) -> Tensor:
    """Random signs, for each image times what makes them as long as its `change`, that stay within [0, 1]."""
    size = length(change) / images[0].numel() ** 0.5
    signs = (torch.randint(0, 2, images.shape, generator=rng) * 2 - 1).to(images)
    noise = signs * size
    outside = (images + noise < 0) | (images + noise > 1)
    return torch.where(outside, -noise, noise)
