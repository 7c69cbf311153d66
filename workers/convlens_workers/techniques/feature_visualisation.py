"""Feature visualisation: pictures that excite a unit (Olah et al. 2017; Yosinski et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from google.protobuf.message import Message
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import objectives
from convlens_workers.techniques.parts.examples import dataset_examples
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.losses import likeness
from convlens_workers.techniques.parts.optimisers import VARIABLE, adam
from convlens_workers.techniques.parts.parametrisation import along_colours, fourier_picture, noise_spectrum
from convlens_workers.techniques.parts.pixels import blur, random_shift, roll
from convlens_workers.techniques.parts.transforms import robust

Params = job_pb2.FeatureVisualisation
REDIRECTED_STEPS: Final = 16
"""Steps at the start whose gradients get through closed ReLUs."""
JITTER: Final = 8
"""Pixels by which the plain way shifts pictures at most."""
ADAM_RATE: Final = 0.05
STEP: Final = 0.2
"""Length of a step of the plain way in standard deviations of the pixels."""
FINISHED: Final = "finished"


def feature_visualisation(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Gradient ascent on each objective in turn, all its variants at once.

    Returns:
        "images" (objectives x variants, 3, size, size) in [0, 1], and "values", one for each. Where a
        collection is named, "examples" (objectives x examples, 3, H, W), and the report `visualisation`.

    Raises:
        InvalidArgument: a neuron outside its layer's map, where the size is not the model's own.
        NotFound: an example was deleted meanwhile.
    """
    params = task.params
    wanted = [
        Objective(
            task, objectives.terms(item, task.manifest, f"feature_visualisation.objectives[{position}]")
        )
        for position, item in enumerate(params.objectives)
    ]
    stages = [PARAMETRISATIONS[params.parametrisation](objective, params.steps) for objective in wanted]
    last = yield from optimise(stages, state, task.seed, task.device)
    images = finished(last, stages[-1])
    with torch.no_grad():
        batches = torch.split(images, params.variants)
        values = [objective.value(batch)[0] for objective, batch in zip(wanted, batches, strict=True)]
    results: dict[str, Tensor | Message] = {"images": images, "values": torch.cat(values)}
    if params.collection:
        results["examples"] = dataset_examples(task, [objective.terms[0] for objective in wanted])
        results["visualisation"] = job_pb2.VisualisationReport(examples=params.dataset_examples)
    return results


@dataclass(frozen=True)
class Objective:
    """One objective, as something to make small."""

    task: Task[Params]
    terms: list[objectives.Term]

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.task.params.size or self.task.manifest.input_size

    def value(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The objective for each image, and the features that tell variants apart."""
        values = self.task.network.taps(images, [term.layer for term in self.terms])
        return objectives.total(self.terms, values), values[self.terms[0].layer]

    def loss(self, images: Tensor) -> tuple[Tensor, Losses]:
        """What is to become small, and its parts."""
        return self.compare(*self.value(images))

    def compare(self, value: Tensor, features: Tensor) -> tuple[Tensor, Losses]:
        """What is to become small, and its parts, from the objective and the features of each image."""
        losses = {"objective": value.mean()}
        if len(value) == 1 or not self.task.params.diversity:
            return -value.sum(), losses
        losses["likeness"] = likeness(features)
        weight = self.task.params.diversity * value.detach().abs().mean()
        return weight * losses["likeness"] - value.mean(), losses


@dataclass(frozen=True)
class FourierStage:
    """lucid's way: Fourier coefficients, seen under random transforms; `x` holds the coefficients."""

    objective: Objective
    steps: int

    def start(self, last: State, rng: torch.Generator) -> State:
        """The coefficients of noise."""
        task, size = self.objective.task, self.objective.size
        spectrum = noise_spectrum(task.params.variants, (size, size), rng).to(task.device)
        return {**kept(last, self), VARIABLE: spectrum, "number": torch.tensor(0)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step of Adam."""
        number, task, size = int(held["number"]), self.objective.task, self.objective.size
        with task.network.redirected() if number < REDIRECTED_STEPS else nullcontext():
            after, losses = adam(task.params.learning_rate or ADAM_RATE).step(
                held, lambda x: self.objective.loss(robust(fourier_picture(x, size), rng))
            )
        return {**kept(held), **after, "number": torch.tensor(number + 1)}, losses

    def pictures(self, held: State) -> Tensor:
        """The pictures of the coefficients."""
        return fourier_picture(held[VARIABLE], self.objective.size)

    def picture(self, held: State) -> Tensor:
        """The first variant."""
        return fourier_picture(held[VARIABLE][:1], self.objective.size)


@dataclass(frozen=True)
class PixelStage:
    """The plain way: ascent on pixels with decay to the mean colour, blur and shifts; keeps the best.

    Departs from Yosinski et al. in that it goes along the gradient of decorrelated colours.
    """

    objective: Objective
    steps: int

    def start(self, last: State, rng: torch.Generator) -> State:
        """The network's zero, its mean colour; variants differ by a little noise."""
        count, size = self.objective.task.params.variants, self.objective.size
        noise = torch.randn(count, 3, size, size, generator=rng).to(self.objective.task.device)
        start = self._mean() + (1e-3 * noise if count > 1 else 0 * noise)
        lowest = torch.full((count,), -torch.inf, device=start.device)
        begin = {VARIABLE: start, "best": start, "value": lowest, "number": torch.tensor(0)}
        return {**kept(last, self), **begin}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step uphill, `learning_rate` standard deviations, root mean square."""
        task, number = self.objective.task, int(held["number"]) + 1
        params, network = task.params, task.network
        x = roll(held[VARIABLE], random_shift(JITTER, rng)).requires_grad_()
        with torch.enable_grad(), network.redirected() if number <= REDIRECTED_STEPS else nullcontext():
            value, features = self.objective.value(x)
            loss, losses = self.objective.compare(value, features)
            (gradient,) = torch.autograd.grad(loss, x)
        gradient = along_colours(gradient)
        seen, value = x.detach(), value.detach()
        size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
        deviation = torch.tensor(task.manifest.std, device=x.device).view(1, 3, 1, 1)
        moved = seen - (params.learning_rate or STEP) * deviation * gradient / size
        moved = self._mean() + (1 - params.decay) * (moved - self._mean())
        if params.blur_every and number % params.blur_every == 0:
            moved = blur(moved)
        better = value > held["value"]
        return {
            **kept(held),
            VARIABLE: moved.clamp(0, 1),
            "best": torch.where(better.view(-1, 1, 1, 1), seen, held["best"]),
            "value": torch.where(better, value, held["value"]),
            "number": torch.tensor(number),
        }, {name: part.detach() for name, part in losses.items()}

    def pictures(self, held: State) -> Tensor:
        """The best pictures so far."""
        return held["best"]

    def picture(self, held: State) -> Tensor:
        """The first variant."""
        return held["best"][:1]

    def _mean(self) -> Tensor:
        task = self.objective.task
        return torch.tensor(task.manifest.mean, device=task.device).view(1, 3, 1, 1)


ObjectiveStage = FourierStage | PixelStage
PARAMETRISATIONS: Final[dict[int, Callable[[Objective, int], ObjectiveStage]]] = {
    job_pb2.PARAMETRISATION_UNSPECIFIED: FourierStage,
    job_pb2.PARAMETRISATION_FOURIER: FourierStage,
    job_pb2.PARAMETRISATION_PIXELS: PixelStage,
}


def finished(held: State, stage: ObjectiveStage) -> Tensor:
    """The pictures of this stage, behind those of the ones before."""
    return torch.cat([*kept(held).values(), stage.pictures(held)])


def kept(held: State, stage: ObjectiveStage | None = None) -> State:
    """What has been finished so far; with `stage`, the pictures of that one too."""
    if stage is not None and held:
        return {FINISHED: finished(held, stage)}
    return {FINISHED: held[FINISHED]} if FINISHED in held else {}
