"""DeepDream (Mordvintsev, Olah & Tyka 2015; google/deepdream): what a layer sees, more of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_workers.techniques.base import State, Step, Task
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.pixels import Size, random_shift, resize, roll, unit_mean

SMALLEST_SIDE: Final = 32


def deepdream(
    task: Task[job_pb2.DeepDream], state: State | None = None
) -> Generator[Step, None, dict[str, Tensor]]:
    """Gradient ascent on sum_l ||a_l(x)||_2 over octaves, from the smallest to the picture's own size.

    Each step moves x by `step_size` / 255 times g / mean|g|, on a randomly rolled picture, and clips it to
    [0, 1]. From one octave to the next goes the detail (what was added to the picture), not the picture, so
    that the photo itself is never blurred. Departs from the original in that several layers add up their
    norms: each then weighs the same, however large its activations are.

    Args:
        task: `images["image"]` of shape (1, 3, H, W) in [0, 1].
        state: of the last step, to go on from.

    Returns:
        "image" of shape (1, 3, H, W) in [0, 1].

    Raises:
        InvalidArgument: no layer given, and the model has no dream layers.
    """
    layers = list(task.params.layers) or list(task.manifest.dream_layers)
    if not layers:
        raise InvalidArgument.of("deepdream.layers", [], f"set: {task.manifest.name} has no dream layers")
    stages = [Octave(task, layers, size) for size in octaves(task)]
    last = yield from optimise(stages, state, task.seed, task.device)
    return {"image": last["image"]}


@dataclass(frozen=True)
class Octave:
    """The steps at one size."""

    task: Task[job_pb2.DeepDream]
    layers: list[str]
    size: Size

    @property
    def steps(self) -> int:
        """How many."""
        return self.task.params.steps

    def start(self, last: State, _rng: torch.Generator) -> State:
        """The picture, with the detail of the octave before."""
        start = self.task.images["image"]
        return {"image": next_octave(last["image"], start, self.size) if last else resize(start, self.size)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """One step uphill."""
        image, losses = ascend(self.task, held["image"], self.layers, rng)
        return {"image": image}, losses

    def picture(self, held: State) -> Tensor:
        """The picture as it is."""
        return held["image"]


def ascend(
    task: Task[job_pb2.DeepDream], image: Tensor, layers: list[str], rng: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step uphill; gives the new picture, and the norm of each layer before it."""
    shift = random_shift(task.params.jitter, rng)
    rolled = roll(image, shift).requires_grad_()
    with torch.enable_grad():
        norms = {name: torch.linalg.vector_norm(a) for name, a in task.network.taps(rolled, layers).items()}
        (gradient,) = torch.autograd.grad(torch.stack(list(norms.values())).sum(), rolled)
    moved = (rolled.detach() + task.params.step_size / 255 * unit_mean(gradient)).clamp(0, 1)
    return roll(moved, (-shift[0], -shift[1])), {name: norm.detach() for name, norm in norms.items()}


def next_octave(image: Tensor, start: Tensor, size: Size) -> Tensor:
    """The picture at `size`, with the detail that `image` has over it at its own size."""
    height, width = image.shape[2:]
    detail = image - resize(start, (height, width))
    return (resize(start, size) + resize(detail, size)).clamp(0, 1)


def octaves(task: Task[job_pb2.DeepDream]) -> list[Size]:
    """Sizes from small to large; those too small to see anything in, or for the network, are left out."""
    height, width = task.images["image"].shape[2:]
    scales = [task.params.octave_scale**-n for n in reversed(range(task.params.octaves))]
    smallest = max(SMALLEST_SIDE, task.manifest.min_size if task.manifest.dynamic_size else 0)
    sizes = [(round(height * scale), round(width * scale)) for scale in scales[:-1]]
    return [size for size in sizes if min(size) >= smallest] + [(height, width)]
