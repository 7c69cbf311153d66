"""DeepDream (Mordvintsev, Olah & Tyka 2015; google/deepdream): what a layer sees, more of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from google.protobuf.message import Message
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_workers.jobs.techniques.deepdream import VIDEOS, dream_layers, input_size, octaves
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts.animation import eight_bit, encoder, zoomed
from convlens_workers.techniques.parts.colours import change_in_grey, luminance
from convlens_workers.techniques.parts.excitation import Excited, excited
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
IMAGE, START, FRAME, VIDEO = "image", "start", "frame.", "zoom."
"""In the state and the result: the picture, what its frame started from, the frames before, the file."""
MASK: Final = "mask"


def deepdream(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Gradient ascent on sum_l w_l ||a_l(x)||_2 over octaves, from the smallest to the picture's own size.

    Each step moves x by `step_size` / 255 times g / mean|g|, with g that of a randomly rolled picture, and
    clips it to [0, 1]. From one octave to the next goes the detail (what was added to the picture), not the
    picture, so that the photo itself is never blurred. Departs from the original in that several layers add
    up their norms: each then counts as its weight says, however large its activations are. And the step
    depends on the layer, unless it is given: what moves low layers is the same from step to step, so that
    steps of one length for all layers add up to clipped blobs there.

    - `channels`, `strongest`, `weakest`: a_l is only these, or those that are `excited`.
    - `guide`: instead of its norm, a_l grows along the features of that picture, see `guided`.
    - `tile`: a larger picture is cut, and g is the gradient of the sum of its tiles' norms, as that of the
      whole would take a second pass. A calm tile (sky) so dreams as much as a busy one. mean|g| is taken
      over the whole picture: a step is as long as without tiles.
    - `laplacian`: g with all bands of its pyramid at one strength, then divided by its mean|g|.
    - `mask`: each pixel's part of a step is multiplied by it; mean|g| is that of the whole picture still.
    - `keep_colours`: g is the same for red, green and blue, so that only the luminance changes.
    - `frames`: each but the first starts from the one before, enlarged by `zoom` about its centre.

    Returns:
        "image" of shape (1, 3, H, W) in [0, 1], the last frame. Of several frames also "frame.0000" and so
        on, alike but rounded to 8 bits, and "zoom.webp", or as `video` says, the bytes of a file. Where
        channels were chosen, the report `dream`.

    Raises:
        FailedPrecondition: the worker cannot write such a video.
    """
    params, dream = task.params, Dream(task, dream_layers(task.params, task.manifest))
    suffix = VIDEOS[params.video].suffix
    encode = encoder(suffix)
    count = max(1, params.frames)  # 0 frames: a request from before there were any.
    height, width = task.images[IMAGE].shape[2:]
    sizes = octaves((height, width), params, task.manifest)
    stages = [Octave(dream, size, frame, params.steps) for frame in range(count) for size in sizes]
    last = yield from optimise(stages, state, task.seed, task.device)
    results: dict[str, Tensor | Message] = {IMAGE: last[IMAGE]}
    if count > 1:
        kept = with_frame(last, count - 1)
        frames = [kept[frame_name(number)] for number in range(count)]
        results |= {frame_name(number): frame / 255 for number, frame in enumerate(frames)}
        results[VIDEO + suffix] = torch.frombuffer(
            bytearray(encode(frames, params.frame_rate)), dtype=torch.uint8
        )
    return results | dream.report()


@dataclass(frozen=True)
class Dream:
    """What is amplified, of any picture."""

    task: Task[Params]
    layers: list[str]

    def values(self, image: Tensor) -> dict[str, Tensor]:
        """How much of each layer there is in `image`, times its weight; differentiable."""
        features = self._features(image)
        return {name: self._weights[name] * self._value(name, of) for name, of in features.items()}

    def direction(self, image: Tensor, rng: torch.Generator) -> tuple[Tensor, Losses]:
        """Where to move `image`, 1 in the mean over all its numbers; and the values before."""
        params = self.task.params
        height, width = image.shape[2:]
        shift = random_roll((height, width), params.tile, params.jitter, rng)
        gradient, values = tiled_gradient(roll(image, shift), params.tile, self.values)
        if params.keep_colours:
            gradient = gradient.sum(1, keepdim=True).expand_as(gradient)
        direction = roll(unit_mean(gradient), (-shift[0], -shift[1]))
        return unit_mean(equalised(direction, params.laplacian)) if params.laplacian else direction, values

    @cached_property
    def step_size(self) -> float:
        """Of a step, the mean over all numbers of a picture."""
        params, counting = self.task.params, [name for name, weight in self._weights.items() if weight]
        return (params.step_size if params.HasField("step_size") else step_size(self.task, counting)) / 255

    def mask(self, size: Size, frame: int) -> Tensor | None:
        """Where a frame dreams, and how much, (1, 1, H, W) in [0, 1], at `size`; None: everywhere."""
        mask = self.task.images.get(MASK)
        if mask is None:
            return None
        enlarged = zoomed(mask, self.task.params.zoom**frame)
        # Eight bits: what is white or black stays so to the last bit, whatever the size.
        return eight_bit(luminance(resize(enlarged, size)).clamp(0, 1)) / 255

    def report(self) -> dict[str, Message]:
        """The channels that were chosen, by the name of the field of JobResult; empty where none were."""
        chosen = self._chosen
        layers = [job_pb2.DreamtLayer(layer=name, **chosen[name]._asdict()) for name in chosen]
        return {"dream": job_pb2.DreamReport(layers=layers)} if chosen else {}

    def _value(self, name: str, features: Tensor) -> Tensor:
        guide = self._guide
        return torch.linalg.vector_norm(features) if guide is None else guided(features, guide[name])

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        features, channels = self.task.network.taps(image, self.layers), self._channels
        return {name: of[:, channels[name]] if name in channels else of for name, of in features.items()}

    @cached_property
    def _weights(self) -> dict[str, float]:
        return dict(zip(self.layers, self.task.params.weights or [1.0] * len(self.layers), strict=True))

    @cached_property
    def _channels(self) -> dict[str, list[int]]:
        """Those that count of each layer; none stands for all."""
        if self.task.params.channels:
            return {self.layers[0]: list(self.task.params.channels)}
        return {name: chosen.channels for name, chosen in self._chosen.items()}

    @cached_property
    def _chosen(self) -> dict[str, Excited]:
        """What the start picture excites most and least, where that is asked for."""
        strongest, weakest = self.task.params.strongest, self.task.params.weakest
        if not (strongest or weakest):
            return {}
        with torch.no_grad():
            features = self.task.network.taps(self._at_input_size(self.task.images[IMAGE]), self.layers)
        return {name: excited(features[name], strongest, weakest) for name in self.layers}

    @cached_property
    def _guide(self) -> dict[str, Tensor] | None:
        """Its features. At the network's own size: they stand for all octaves."""
        guide = self.task.images.get("guide")
        if guide is None:
            return None
        with torch.no_grad():
            return self._features(self._at_input_size(guide))

    def _at_input_size(self, image: Tensor) -> Tensor:
        """The picture with its longer side at the network's input size, but no side too small for it."""
        return resize(image, input_size((image.shape[2], image.shape[3]), self.task.manifest))


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
        return {**last, IMAGE: next_octave(last[IMAGE], self._origin(last), self.size, self._mask)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """One step uphill."""
        direction, values = self.dream.direction(held[IMAGE], rng)
        mask, image = self._mask(self.size), held[IMAGE]
        if mask is not None:
            direction = direction * mask
        if self.dream.task.params.keep_colours:
            image = change_in_grey(image, resize(self._origin(held), self.size))
        # In place: of a large picture there are enough copies.
        return {**held, IMAGE: direction.mul_(self.dream.step_size).add_(image).clamp_(0, 1)}, values

    def picture(self, held: State) -> Tensor:
        """The picture under way."""
        return held[IMAGE]

    def _origin(self, held: State) -> Tensor:
        """What the frame started from, at full size."""
        return held.get(START, self.dream.task.images[IMAGE])

    def _mask(self, size: Size) -> Tensor | None:
        return self.dream.mask(size, self.frame)


def step_size(task: Task[job_pb2.DeepDream], layers: list[str]) -> float:
    """In 1/255: 1.5, less in proportion for receptive fields below 64 px, of the layer that sees least."""
    fields = [task.manifest.layer(name).receptive_field or WIDE for name in layers]
    return STEP_SIZE * min(1.0, max(LEAST_SHARE, min(fields) / WIDE))


def next_octave(
    image: Tensor, start: Tensor, size: Size, mask: Callable[[Size], Tensor | None] = lambda _: None
) -> Tensor:
    """The picture at `size`, with the detail that `image` has over it at its own size.

    Enlarged, a mask's edges are blurred, and the detail with them: of it, as much is taken as the mask at
    `size` is of the enlarged one, nothing where it is black.
    """
    height, width = image.shape[2:]
    detail = resize(image - resize(start, (height, width)), size)
    finer, coarser = mask(size), mask((height, width))
    if finer is not None and coarser is not None:
        blurred = resize(coarser, size).clamp(torch.finfo(finer.dtype).tiny, 1)
        detail = detail * (finer / blurred).clamp(max=1)
    return (resize(start, size) + detail).clamp(0, 1)


def with_frame(held: State, number: int) -> State:
    """The state with the picture as a finished frame: in 8 bits as the video has it, small in checkpoints."""
    return {**held, frame_name(number): eight_bit(held[IMAGE])}


def frame_name(number: int) -> str:
    """The name of a frame's artifact."""
    return f"{FRAME}{number:04}"
