"""DeepDream (Mordvintsev, Olah & Tyka 2015; google/deepdream): what a layer sees, more of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_workers.techniques.base import State, Step, Task
from convlens_workers.techniques.parts.animation import eight_bit, webp, zoomed
from convlens_workers.techniques.parts.guide import guided
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.pixels import Size, resize, roll, unit_mean
from convlens_workers.techniques.parts.pyramid import equalised
from convlens_workers.techniques.parts.tiles import random_roll, tiled_gradient

SMALLEST_SIDE: Final = 32
STEP_SIZE: Final = 1.5
LEAST_SHARE: Final = 0.25
WIDE: Final = 64
"""The step in 1/255 of layers that see at least so many pixels, and the least share that others take."""
MOST_PIXELS: Final = 1 << 27
"""Of all frames of a video together: what its checkpoints and its result may hold."""
IMAGE, START, FRAME, VIDEO = "image", "start", "frame.", "zoom.webp"
"""In the state and the result: the picture, what its frame started from, the frames before, the file."""


def deepdream(
    task: Task[job_pb2.DeepDream], state: State | None = None
) -> Generator[Step, None, dict[str, Tensor]]:
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

    Args:
        task: `images["image"]`, and `images["guide"]` if there is one, (1, 3, H, W) in [0, 1].
        state: of the last step, to go on from.

    Returns:
        "image" of shape (1, 3, H, W) in [0, 1], the last frame. Of several frames also "frame.0000" and so
        on, alike but rounded to 8 bits, and "zoom.webp", the bytes of a file.

    Raises:
        InvalidArgument: no layer given, and the model has no dream layers; channels of several layers, or
            that its layer does not have; a tile too small for the network; more frames than fit.
    """
    check(task)
    # 0 frames: a request from before there were any.
    count, sizes, dream = max(1, task.params.frames), octaves(task), Dream(task, dream_layers(task))
    stages = [Octave(dream, size, frame) for frame in range(count) for size in sizes]
    last = yield from optimise(stages, state, task.seed, task.device)
    if count == 1:
        return {IMAGE: last[IMAGE]}
    kept = with_frame(last, count - 1)
    frames = [kept[frame_name(number)] for number in range(count)]
    shown = {frame_name(number): frame / 255 for number, frame in enumerate(frames)}
    return {IMAGE: last[IMAGE], **shown, VIDEO: webp(frames, task.params.frame_rate)}


@dataclass(frozen=True)
class Dream:
    """What is amplified, of any picture."""

    task: Task[job_pb2.DeepDream]
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
        wanted, least = self.task.manifest.input_size, smallest(self.task)
        ratio = min(1.0, max(wanted / max(height, width), least / min(height, width)))
        with torch.no_grad():
            return self._features(resize(guide, (round(height * ratio), round(width * ratio))))


@dataclass(frozen=True)
class Octave:
    """The steps at one size of one frame."""

    dream: Dream
    size: Size
    frame: int

    @property
    def steps(self) -> int:
        """How many."""
        return self.dream.task.params.steps

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
        """The picture as it is."""
        return held[IMAGE]


def check(task: Task[job_pb2.DeepDream]) -> None:
    """Refuse what only the model and the size of the picture tell."""
    params, least = task.params, 2 * smallest(task)
    if 0 < params.tile < least:
        raise InvalidArgument.of("deepdream.tile", params.tile, f"0, or at least {least}")
    height, width = task.images[IMAGE].shape[2:]
    most = max(1, MOST_PIXELS // (height * width))
    if params.frames > most:
        raise InvalidArgument.of(
            "deepdream.frames", params.frames, f"at most {most} of {height} x {width} pixels"
        )


def dream_layers(task: Task[job_pb2.DeepDream]) -> list[str]:
    """The layers to amplify; refuses channels that they do not have."""
    layers = list(task.params.layers) or list(task.manifest.dream_layers)
    if not layers:
        raise InvalidArgument.of("deepdream.layers", [], f"set: {task.manifest.name} has no dream layers")
    channels = list(task.params.channels)
    if channels and len(layers) > 1:
        raise InvalidArgument.of("deepdream.layers", layers, "only one, as there are channels")
    count = task.manifest.layer(layers[0], "deepdream.layers[0]").shape[0]
    for position, channel in enumerate(channels):
        if not 0 <= channel < count:
            allowed = f"between 0 and {count - 1}, the last channel of {layers[0]}"
            raise InvalidArgument.of(f"deepdream.channels[{position}]", channel, allowed)
    return layers


def step_size(task: Task[job_pb2.DeepDream], layers: list[str]) -> float:
    """In 1/255: 1.5, less in proportion for receptive fields below 64 px, of the layer that sees least."""
    fields = [task.manifest.layer(name).receptive_field or WIDE for name in layers]
    return STEP_SIZE * min(1.0, max(LEAST_SHARE, min(fields) / WIDE))


def next_octave(image: Tensor, start: Tensor, size: Size) -> Tensor:
    """The picture at `size`, with the detail that `image` has over it at its own size."""
    height, width = image.shape[2:]
    detail = image - resize(start, (height, width))
    return (resize(start, size) + resize(detail, size)).clamp(0, 1)


def octaves(task: Task[job_pb2.DeepDream]) -> list[Size]:
    """Sizes from small to large; those too small to see anything in, or for the network, are left out."""
    height, width = task.images[IMAGE].shape[2:]
    scales = [task.params.octave_scale**-n for n in reversed(range(task.params.octaves))]
    sizes = [(round(height * scale), round(width * scale)) for scale in scales[:-1]]
    return [size for size in sizes if min(size) >= smallest(task)] + [(height, width)]


def smallest(task: Task[job_pb2.DeepDream]) -> int:
    """The smallest side that is worth while and that the network takes."""
    return max(SMALLEST_SIDE, task.manifest.min_size if task.manifest.dynamic_size else 0)


def with_frame(held: State, number: int) -> State:
    """With the picture kept as a finished frame: at 8 bits, as the video has it, and small in checkpoints."""
    return {**held, frame_name(number): eight_bit(held[IMAGE])}


def frame_name(number: int) -> str:
    """As artifacts are called."""
    return f"{FRAME}{number:04}"
