"""Feature visualisation: pictures that excite a unit (Olah et al. 2017; Yosinski et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from google.protobuf.message import Message
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_workers.jobs.techniques.feature_visualisation import picture_size
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import objectives
from convlens_workers.techniques.parts.captions import caption
from convlens_workers.techniques.parts.examples import dataset_examples
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.losses import likeness
from convlens_workers.techniques.parts.optimisers import VARIABLE, adam
from convlens_workers.techniques.parts.parametrisation import (
    along_colours,
    fourier_picture,
    noise_spectrum,
    spectrum_of,
)
from convlens_workers.techniques.parts.pixels import Size, blur, covering, random_shift, roll
from convlens_workers.techniques.parts.transforms import Ranges, View, drawn, unchanged

Params = job_pb2.FeatureVisualisation
REDIRECTED_STEPS: Final = 16
"""Steps at the start whose gradients get through closed ReLUs."""
VIEWS: Final = Ranges(pad=12, jitter=4, scale=0.1, rotate=10)
"""lucid's: shifted by up to 4 px, scaled by 0.9 to 1.1, turned by up to 10 degrees, shifted by up to 2 px."""
SHIFTS: Final = Ranges(pad=0, jitter=8, scale=0, rotate=0)
"""The plain way shifts alone."""
ADAM_RATE: Final = 0.05
STEP: Final = 0.2
"""Length of a step of the plain way in standard deviations of the pixels."""
FINISHED: Final = "finished"


def feature_visualisation(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Gradient ascent on each objective in turn, all its variants at once.

    Returns:
        "images" (objectives x variants, 3, height, width) in [0, 1], and "values", one for each; the report
        `visualisation`. Where a collection is named, "examples" (objectives x examples, 3, H, W).

    Raises:
        InvalidArgument: a neuron outside its layer's map, where the size is not the model's own.
        NotFound: an example, or another network, was deleted meanwhile.
    """
    params = task.params
    wanted = [Objective(task, objectives.terms(task, number)) for number in range(len(params.objectives))]
    stages = [PARAMETRISATIONS[params.parametrisation](objective, params.steps) for objective in wanted]
    last = yield from optimise(stages, state, task.seed, task.device)
    images = finished(last, stages[-1])
    with torch.no_grad():
        batches = torch.split(images, params.variants)
        values = [objective.value(batch)[0] for objective, batch in zip(wanted, batches, strict=True)]
    shown = [
        job_pb2.VisualisedObjective(name=caption(task, item), values=value.tolist())
        for item, value in zip(params.objectives, values, strict=True)
    ]
    report = job_pb2.VisualisationReport(examples=params.dataset_examples, objectives=shown)
    results: dict[str, Tensor | Message] = {"images": images, "values": torch.cat(values)}
    if params.collection:
        results["examples"] = dataset_examples(task, [objective.terms[0] for objective in wanted])
    return {**results, "visualisation": report}


@dataclass(frozen=True)
class Objective:
    """One objective, as something to make small."""

    task: Task[Params]
    terms: list[objectives.Term]

    @property
    def size(self) -> Size:
        """Height and width of the pictures in pixels."""
        return picture_size(self.task.params, self.task.manifest)

    @property
    def start(self) -> Tensor | None:
        """The picture to start from, (1, 3, H, W), where there is one."""
        picture = self.task.images.get("start")
        return None if picture is None else covering(picture, self.size)

    def redirected(self, number: int) -> AbstractContextManager[None]:
        """In the first steps, where gradients get through closed ReLUs."""
        return objectives.redirected(self.terms) if number < REDIRECTED_STEPS else nullcontext()

    def ranges(self, usual: Ranges) -> Ranges:
        """How far views go: as the request says, else as `usual`."""
        asked = self.task.params.transforms.ListFields()
        return usual._replace(**{field.name: value for field, value in asked})

    def value(self, images: Tensor, view: View = unchanged) -> tuple[Tensor, Tensor]:
        """The objective for each image as `view` shows it, and the features that tell variants apart."""
        return objectives.measured(self.terms, images, view)

    def loss(self, images: Tensor, view: View) -> tuple[Tensor, Losses]:
        """What is to become small, and its parts."""
        return self.compare(*self.value(images, view))

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
        """The coefficients of noise; or of the picture to start from, where variants differ by that noise."""
        task, start = self.objective.task, self.objective.start
        count = task.params.variants
        spectrum = noise_spectrum(count, self.objective.size, rng).to(task.device)
        if start is not None:
            spectrum = spectrum_of(start) + (spectrum if count > 1 else 0 * spectrum)
        return {**kept(last, self), VARIABLE: spectrum, "number": torch.tensor(0)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step of Adam."""
        number, objective = int(held["number"]), self.objective
        view, width = drawn(objective.ranges(VIEWS), rng), objective.size[1]
        with objective.redirected(number):
            after, losses = adam(objective.task.params.learning_rate or ADAM_RATE).step(
                held, lambda x: objective.loss(fourier_picture(x, width), view)
            )
        return {**kept(held), **after, "number": torch.tensor(number + 1)}, losses

    def pictures(self, held: State) -> Tensor:
        """The pictures of the coefficients."""
        return fourier_picture(held[VARIABLE], self.objective.size[1])

    def picture(self, held: State) -> Tensor:
        """The first variant."""
        return fourier_picture(held[VARIABLE][:1], self.objective.size[1])


@dataclass(frozen=True)
class PixelStage:
    """The plain way: ascent on pixels with decay to the mean colour, blur and shifts; keeps the best.

    Departs from Yosinski et al. in that it goes along the gradient of decorrelated colours.
    """

    objective: Objective
    steps: int

    def start(self, last: State, rng: torch.Generator) -> State:
        """The network's zero, its mean colour, or the picture given; variants differ by a little noise."""
        count, given = self.objective.task.params.variants, self.objective.start
        noise = torch.randn(count, 3, *self.objective.size, generator=rng).to(self.objective.task.device)
        start = self._mean() if given is None else given
        start = start + (1e-3 * noise if count > 1 else 0 * noise)
        lowest = torch.full((count,), -torch.inf, device=start.device)
        begin = {VARIABLE: start, "best": start, "value": lowest, "number": torch.tensor(0)}
        return {**kept(last, self), **begin}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """A step uphill, `learning_rate` standard deviations, root mean square."""
        objective, number = self.objective, int(held["number"]) + 1
        task, params = objective.task, objective.task.params
        shift = random_shift(objective.ranges(SHIFTS).jitter, rng)
        x = held[VARIABLE].detach().clone().requires_grad_()
        with torch.enable_grad(), objective.redirected(number - 1):
            value, features = objective.value(x, lambda image: roll(image, shift))
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
