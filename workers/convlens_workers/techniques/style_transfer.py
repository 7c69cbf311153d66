"""Style transfer: the content of one picture in the style of others.

Classic: Gatys, Ecker & Bethge, CVPR 2016. Best: Katherine Crowson's, by scales and Wasserstein-2 distances
(github.com/crowsonkb/style-transfer-pytorch).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_workers.jobs.techniques.layers import content_layer, layer_weights, style_layers
from convlens_workers.jobs.techniques.style_transfer import optimiser, picture_sizes, style_size
from convlens_workers.techniques.base import FeatureNetwork, Results, State, Step, Task
from convlens_workers.techniques.parts import losses
from convlens_workers.techniques.parts.colours import luminance, match_covariance, with_luminance
from convlens_workers.techniques.parts.descent import descent
from convlens_workers.techniques.parts.image_optimisation import (
    PIXELS,
    AveragedImageOptimisation,
    ImageOptimisation,
    features,
)
from convlens_workers.techniques.parts.loop import optimise
from convlens_workers.techniques.parts.losses import Part
from convlens_workers.techniques.parts.optimisers import Optimiser, adam, lbfgs
from convlens_workers.techniques.parts.pixels import Size, resize

Params = job_pb2.StyleTransfer
EXPECTED_FALL: Final = 0.2
"""Of the loss. Less than for textures: a large weight of the content leaves little to lose."""
BETAS: Final = (0.9, 0.99)
GREY: Final = 0.5
LEVEL: Final = 1 / 255
"""The noise of a grey start: as good as none to the eye, but no two positions are alike."""


class Pool(NamedTuple):
    """What stands for a max pool: means of a power; and how much a maximum is of one, about.

    Without the latter, deep layers fall silent.
    """

    power: int
    gain: float


POOLS: Final[Mapping[int, Pool | None]] = {
    job_pb2.STYLE_POOLING_UNSPECIFIED: Pool(1, 2.0),
    job_pb2.STYLE_POOLING_AVERAGE: Pool(1, 2.0),
    job_pb2.STYLE_POOLING_MAX: None,
    job_pb2.STYLE_POOLING_L2: Pool(2, 1.56),
}


@dataclass(frozen=True)
class Method:
    """What the two methods differ in.

    Attributes:
        compare: makes the loss of a layer from the style's values, where in the picture they count, and
            where in the style.
        gains: whether pools make up for what a maximum is more.
    """

    compare: Callable[[Tensor, Tensor | None, Tensor | None], losses.Loss]
    gains: bool


BEST: Final = Method(losses.wasserstein_loss, gains=True)
METHODS: Final = {
    job_pb2.STYLE_METHOD_UNSPECIFIED: BEST,
    job_pb2.STYLE_METHOD_BEST: BEST,
    job_pb2.STYLE_METHOD_CLASSIC: Method(
        lambda style, where, part: losses.gram_loss(losses.gram(style, part), where),
        gains=False,
    ),
}
OPTIMISERS: Final[Mapping[int, tuple[type[ImageOptimisation], Callable[[Params], Optimiser]]]] = {
    job_pb2.OPTIMISER_ADAM: (
        AveragedImageOptimisation,
        lambda params: adam(params.learning_rate, BETAS),
    ),
    job_pb2.OPTIMISER_LBFGS: (ImageOptimisation, lambda _: lbfgs()),
}
"""How each walks: Adam's steps shake the picture, so that their average is shown."""
STARTS: Final[Mapping[int, Callable[[Tensor, torch.Generator], Tensor]]] = {
    job_pb2.STYLE_START_UNSPECIFIED: lambda content, _: content,
    job_pb2.STYLE_START_CONTENT: lambda content, _: content,
    job_pb2.STYLE_START_NOISE: lambda content, rng: torch.rand(*content.shape, generator=rng).to(content),
    job_pb2.STYLE_START_GREY: lambda content, rng: (
        GREY + LEVEL * (torch.rand(*content.shape, generator=rng).to(content) - 0.5)
    ),
}


class StylePicture(NamedTuple):
    """A style.

    Attributes:
        weight: its share of the style losses.
        image: (1, 3, H, W).
        scale: its longer side over the result's; 0 stands for 1.
        part: brightness (1, 1, H', W'): which part of it counts; None: all.
        where: the same of the result.
    """

    weight: float
    image: Tensor
    scale: float
    part: Tensor | None
    where: Tensor | None


def style_transfer(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """A picture whose deep features are the content's, and the statistics of all of them the styles'.

    Returns:
        "image" of the content's size; and "descent".
    """
    params, content = task.params, task.images["content"]
    method, pool = METHODS[params.method], POOLS[params.pooling]
    network = task.network
    if pool is not None:
        network = network.average_pooled(pool.gain if method.gains else 1.0, pool.power)
    source = Source(task, method, network)
    kind, walk = OPTIMISERS[optimiser(params)]
    height, width = content.shape[2:]
    sizes = picture_sizes(params, (height, width))
    stages = [
        kind(
            params.first_steps if position == 0 else params.steps,
            size,
            source.network,
            partial(source.parts, size),
            source.begin,
            walk(params),
        )
        for position, size in enumerate(sizes)
    ]
    last = yield from optimise(stages, state, task.seed, task.device)
    image = stages[-1].picture(last)
    kept = params.colours == job_pb2.COLOURS_LUMINANCE
    shown = with_luminance(content, image) if kept else image
    return {"image": shown, **descent(last, EXPECTED_FALL)}


class Source:
    """What the picture is made from, at any size."""

    def __init__(self, task: Task[Params], method: Method, network: FeatureNetwork) -> None:
        params = task.params
        self.network = network
        self._params, self._compare = params, method.compare
        self._content, self._initial = task.images["content"], task.images.get("initial")
        self._manifest = task.manifest
        self._layers = layer_weights(params, task.manifest, style_layers)
        self._content_layer = params.content_layer or content_layer(task.manifest)
        whole = sum(style.weight for style in params.styles)
        self._styles = [
            StylePicture(
                style.weight / whole,
                task.images[f"styles[{i}].image"],
                style.scale,
                _mask(task.images, f"styles[{i}].style_mask"),
                _mask(task.images, f"styles[{i}].mask"),
            )
            for i, style in enumerate(params.styles)
        ]

    def parts(self, size: Size) -> list[Part]:
        """The losses for a picture of `size`."""
        params, layer = self._params, self._content_layer
        parts = [Part("tv", PIXELS, params.tv_weight, losses.colour_variation)]
        for number, style in enumerate(self._styles):
            image, part = self._style(style, size)
            where = None if style.where is None else resize(style.where, size)
            for name, value in features(self.network, image, self._layers).items():
                weight, loss = style.weight * self._layers[name], self._compare(value, where, part)
                parts.append(Part(f"style{number}.{name}", name, weight, loss))
        content = features(self.network, self._coloured(resize(self._content, size)), [layer])[layer]
        return [*parts, Part("content", layer, params.content_weight, losses.content_loss(content))]

    def begin(self, size: Size, rng: torch.Generator) -> Tensor:
        """What the picture is before the first step, at `size`."""
        noise = job_pb2.STYLE_START_NOISE if self._params.noise_start else job_pb2.STYLE_START_UNSPECIFIED
        first = self._content if self._initial is None else self._initial
        return STARTS[self._params.start or noise](self._coloured(resize(first, size)), rng)

    def _coloured(self, image: Tensor) -> Tensor:
        """The image, without its colours where only light and dark are to be transferred."""
        grey = self._params.colours == job_pb2.COLOURS_LUMINANCE
        return luminance(image).expand_as(image).contiguous() if grey else image

    def _style(self, style: StylePicture, size: Size) -> tuple[Tensor, Tensor | None]:
        """A style as large as it counts beside a picture of `size`, in the colours that it shall give.

        And which part of it counts.
        """
        height, width = style_size(
            (style.image.shape[2], style.image.shape[3]), size, style.scale, self._manifest
        )
        small = resize(style.image, (height, width))
        part = None if style.part is None else resize(style.part, (height, width))
        if self._params.colours == job_pb2.COLOURS_COVARIANCE:
            return match_covariance(small, self._content, part).clamp(0, 1), part
        return self._coloured(small), part


def _mask(images: Mapping[str, Tensor], path: str) -> Tensor | None:
    """The brightness of a mask, if there is one. Raises InvalidArgument for one that is black all over."""
    if path not in images:
        return None
    mask = luminance(images[path])
    if not mask.any():
        raise InvalidArgument.of(f"style_transfer.{path}", "a black picture", "white where the style counts")
    return mask
