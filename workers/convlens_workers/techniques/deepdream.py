"""DeepDream (Mordvintsev, Olah & Tyka 2015; google/deepdream): what a layer sees, more of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_workers.jobs.techniques.deepdream import dream_layers, guide_size, octaves
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts.animation import eight_bit, webp, zoomed
from convlens_workers.techniques.parts.guide import guided
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.pixels import Size, resize, roll, unit_mean
from convlens_workers.techniques.parts.pyramid import equalised
from convlens_workers.techniques.parts.tiles import random_roll, tiled_gradient

Params = job_pb2.DeepDream
STEP_SIZE: Final = 1.5
LEAST_SHARE: Final = 0.25
WIDE: Final = 64
"""The step in 1/255 of layers that see at least so many pixels, and the least share that others take."""
IMAGE, START, FRAME, VIDEO = "image", "start", "frame.", "zoom.webp"
"""In the state and the result: the picture, what its frame started from, the frames before, the file."""


def deepdream(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Gradient ascent on sum_l ||a_l(x)||_2 over octaves, from the smallest to the picture's own size.

    Each step moves x by `step_size` / 255 times g / mean|g|, with g that of a randomly rolled picture, and
    clips it to [0, 1]. From one octave to the next goes the detail (what was added to the picture), not the
    picture, so that the photo itself is never blurred. Departs from the original in that several layers add
    up their norms: each then weighs the same, however large its activations are. And the step depends on
    the layer, unless it is given: what moves low layers is the same from step to step, so that steps of one
    length for all layers add up to clipped blobs there.

    - `channels`: a_l is only these.
    - `guide`: instead of its norm, a_l grows along the features of that picture, see `guided`.
    - `tile`: a larger picture is cut, and g is the gradient of the sum of its tiles' norms, as that of the
      whole would take a second pass. A calm tile (sky) so dreams as much as a busy one. mean|g| is taken
      over the whole picture: a step is as long as without tiles.
    - `laplacian`: g with all bands of its pyramid at one strength, then divided by its mean|g|.
    - `frames`: each but the first starts from the one before, enlarged by `zoom` about its centre.

    Returns:
        "image" of shape (1, 3, H, W) in [0, 1], the last frame. Of several frames also "frame.0000" and so
        on, alike but rounded to 8 bits, and "zoom.webp", the bytes of a file.
    """
    params, dream = task.params, Dream(task, dream_layers(task.params, task.manifest))
    count = max(1, params.frames)  # 0 frames: a request from before there were any.
    height, width = task.images[IMAGE].shape[2:]
    sizes = octaves((height, width), params, task.manifest)
    stages = [Octave(dream, size, frame, params.steps) for frame in range(count) for size in sizes]
    last = yield from optimise(stages, state, task.seed, task.device)
    if count == 1:
        return {IMAGE: last[IMAGE]}
    kept = with_frame(last, count - 1)
    frames = [kept[frame_name(number)] for number in range(count)]
    shown = {frame_name(number): frame / 255 for number, frame in enumerate(frames)}
    return {IMAGE: last[IMAGE], **shown, VIDEO: webp(frames, params.frame_rate)}


@dataclass(frozen=True)
class Dream:
    """What is amplified, of any picture."""

    task: Task[Params]
    layers: list[str]

    def values(self, image: Tensor) -> dict[str, Tensor]:
        """How much of each layer there is in `image`; differentiable."""
        features = self._features(image)
        if self._guide is None:
            return {name: torch.linalg.vector_norm(value) for name, value in features.items()}
        return {name: guided(value, self._guide[name]) for name, value in features.items()}

    def direction(self, image: Tensor, rng: torch.Generator) -> tuple[Tensor, Losses]:
        """Where to move `image`, 1 in the mean over all its numbers; and the values before."""
        params = self.task.params
        height, width = image.shape[2:]
        shift = random_roll((height, width), params.tile, params.jitter, rng)
        gradient, values = tiled_gradient(roll(image, shift), params.tile, self.values)
        direction = roll(unit_mean(gradient), (-shift[0], -shift[1]))
        return unit_mean(equalised(direction, params.laplacian)) if params.laplacian else direction, values

    @cached_property
    def step_size(self) -> float:
        """Of a step, the mean over all numbers of a picture."""
        params = self.task.params
        return (params.step_size if params.HasField("step_size") else step_size(self.task, self.layers)) / 255

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        channels = list(self.task.params.channels)
        features = self.task.network.taps(image, self.layers)
        return {name: value[:, channels] for name, value in features.items()} if channels else features

    @cached_property
    def _guide(self) -> dict[str, Tensor] | None:
        """Its features. At the network's own size: they stand for all octaves."""
        guide = self.task.images.get("guide")
        if guide is None:
            return None
        height, width = guide.shape[2:]
        with torch.no_grad():
            return self._features(resize(guide, guide_size((height, width), self.task.manifest)))


@dataclass(frozen=True)
class Octave:
    """The steps at one size of one frame."""

    dream: Dream
    size: Size
    frame: int
    steps: int

    def start(self, last: State, _rng: torch.Generator) -> State:
        """The picture, with the detail of the octave before; or the frame before, enlarged."""
        task = self.dream.task
        if not last:
            return {IMAGE: resize(task.images[IMAGE], self.size)}
        if self.frame and frame_name(self.frame - 1) not in last:
            start = zoomed(last[IMAGE], task.params.zoom)
            return {**with_frame(last, self.frame - 1), START: start, IMAGE: resize(start, self.size)}
        start = last.get(START, task.images[IMAGE])
        return {**last, IMAGE: next_octave(last[IMAGE], start, self.size)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """One step uphill."""
        direction, values = self.dream.direction(held[IMAGE], rng)
        # In place: of a large picture there are enough copies.
        moved = direction.mul_(self.dream.step_size).add_(held[IMAGE]).clamp_(0, 1)
        return {**held, IMAGE: moved}, values

    def picture(self, held: State) -> Tensor:
        """The picture under way."""
        return held[IMAGE]


def step_size(task: Task[job_pb2.DeepDream], layers: list[str]) -> float:
    """In 1/255: 1.5, less in proportion for receptive fields below 64 px, of the layer that sees least."""
    fields = [task.manifest.layer(name).receptive_field or WIDE for name in layers]
    return STEP_SIZE * min(1.0, max(LEAST_SHARE, min(fields) / WIDE))


def next_octave(image: Tensor, start: Tensor, size: Size) -> Tensor:
    """The picture at `size`, with the detail that `image` has over it at its own size."""
    height, width = image.shape[2:]
    detail = image - resize(start, (height, width))
    return (resize(start, size) + resize(detail, size)).clamp(0, 1)


def with_frame(held: State, number: int) -> State:
    """The state with the picture as a finished frame: in 8 bits as the video has it, small in checkpoints."""
    return {**held, frame_name(number): eight_bit(held[IMAGE])}


def frame_name(number: int) -> str:
    """The name of a frame's artifact."""
    return f"{FRAME}{number:04}"
