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
JITTER: Final = 8
ADAM_RATE: Final = 0.05
STEP: Final = 0.2
FINISHED: Final = "finished"


def feature_visualisation(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Gradient ascent on each objective in turn, all its variants at once.

    Args:
        task: no pictures.
        state: of the last step, to go on from.

    Returns:
        "images" (objectives x variants, 3, size, size) in [0, 1], and "values", one for each. Where a
        collection is named, "examples" (objectives x examples, 3, H, W), and the report `visualisation`.

    Raises:
        InvalidArgument: an objective that the model does not have.
        NotFound: an example was deleted meanwhile.
    """
    make = PARAMETRISATIONS[task.params.parametrisation]
    aims = [
        Objective(
            task, objectives.terms(item, task.manifest, f"feature_visualisation.objectives[{position}]")
        )
        for position, item in enumerate(task.params.objectives)
    ]
    stages = [make(aim) for aim in aims]
    last = yield from optimise(stages, state, task.seed, task.device)
    images = finished(last, stages[-1])
    with torch.no_grad():
        batches = torch.split(images, task.params.variants)
        values = [aim.value(batch)[0] for aim, batch in zip(aims, batches, strict=True)]
    made: dict[str, Tensor | Message] = {"images": images, "values": torch.cat(values)}
    if task.params.collection:
        made["examples"] = dataset_examples(task, [aim.terms[0] for aim in aims])
        made["visualisation"] = job_pb2.VisualisationReport(examples=task.params.dataset_examples)
    return made


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
        """The same, from the objective and the features of each image."""
        losses = {"objective": value.mean()}
        if len(value) == 1 or not self.task.params.diversity:
            return -value.sum(), losses
        losses["likeness"] = likeness(features)
        weight = self.task.params.diversity * value.detach().abs().mean()
        return weight * losses["likeness"] - value.mean(), losses


@dataclass(frozen=True)
class FourierStage:
    """lucid's way: Fourier coefficients, seen under random transforms; `x` holds the coefficients."""

    aim: Objective

    @property
    def steps(self) -> int:
        """How many."""
        return self.aim.task.params.steps

    def start(self, last: State, rng: torch.Generator) -> State:
        """Noise."""
        count, size = self.aim.task.params.variants, self.aim.size
        spectrum = noise_spectrum(count, (size, size), rng).to(self.aim.task.device)
        return {**kept(last, self), VARIABLE: spectrum, "number": torch.tensor(0)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step of Adam."""
        number = int(held["number"])
        network = self.aim.task.network
        with network.redirected() if number < REDIRECTED_STEPS else nullcontext():
            found, losses = adam(self.aim.task.params.learning_rate or ADAM_RATE).step(
                held, lambda x: self.aim.loss(robust(fourier_picture(x, self.aim.size), rng))
            )
        return {**kept(held), **found, "number": torch.tensor(number + 1)}, losses

    def pictures(self, held: State) -> Tensor:
        """Of the coefficients."""
        return fourier_picture(held[VARIABLE], self.aim.size)

    def picture(self, held: State) -> Tensor:
        """The first variant."""
        return fourier_picture(held[VARIABLE][:1], self.aim.size)


@dataclass(frozen=True)
class PixelStage:
    """The plain way: ascent on pixels with decay to the mean colour, blur and shifts; keeps the best.

    Departs from Yosinski et al. in that it goes along the gradient of decorrelated colours.
    """

    aim: Objective

    @property
    def steps(self) -> int:
        """How many."""
        return self.aim.task.params.steps

    def start(self, last: State, rng: torch.Generator) -> State:
        """The network's zero, its mean colour; variants differ by a little noise."""
        count, size = self.aim.task.params.variants, self.aim.size
        noise = torch.randn(count, 3, size, size, generator=rng).to(self.aim.task.device)
        start = self._mean() + (1e-3 * noise if count > 1 else 0 * noise)
        lowest = torch.full((count,), -torch.inf, device=start.device)
        return {
            **kept(last, self),
            VARIABLE: start,
            "best": start,
            "value": lowest,
            "number": torch.tensor(0),
        }

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step uphill, `learning_rate` standard deviations, root mean square."""
        params, manifest = self.aim.task.params, self.aim.task.manifest
        number, network = int(held["number"]) + 1, self.aim.task.network
        x = roll(held[VARIABLE], random_shift(JITTER, rng)).requires_grad_()
        with torch.enable_grad(), network.redirected() if number <= REDIRECTED_STEPS else nullcontext():
            value, features = self.aim.value(x)
            loss, losses = self.aim.compare(value, features)
            (gradient,) = torch.autograd.grad(loss, x)
        gradient = along_colours(gradient)
        seen, value = x.detach(), value.detach()
        size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
        deviation = torch.tensor(manifest.std, device=x.device).view(1, 3, 1, 1)
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
        """The best so far."""
        return held["best"]

    def picture(self, held: State) -> Tensor:
        """The first variant."""
        return held["best"][:1]

    def _mean(self) -> Tensor:
        return torch.tensor(self.aim.task.manifest.mean, device=self.aim.task.device).view(1, 3, 1, 1)


ObjectiveStage = FourierStage | PixelStage
PARAMETRISATIONS: Final[dict[int, Callable[[Objective], ObjectiveStage]]] = {
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
