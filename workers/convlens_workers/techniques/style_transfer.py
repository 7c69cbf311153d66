"""Style transfer: the content of one picture in the style of others.

Classic: Gatys, Ecker & Bethge, CVPR 2016. Best: Katherine Crowson's, by scales and Wasserstein-2 distances
(github.com/crowsonkb/style-transfer-pytorch).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_workers.jobs.techniques.layers import content_layer, layer_weights, style_layers
from convlens_workers.jobs.techniques.style_transfer import picture_sizes, style_size
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
POOLED: Final = 2.0
"""A maximum is about twice an average; without this, deep layers fall silent."""


@dataclass(frozen=True)
class Method:
    """What the two methods differ in."""

    stage: type[ImageOptimisation]
    compare: Callable[[Tensor, Tensor | None], losses.Loss]
    optimiser: Callable[[Params], Optimiser]
    pooled: float


BEST: Final = Method(
    AveragedImageOptimisation,
    losses.wasserstein_loss,
    lambda params: adam(params.learning_rate, BETAS),
    POOLED,
)
METHODS: Final = {
    job_pb2.STYLE_METHOD_UNSPECIFIED: BEST,
    job_pb2.STYLE_METHOD_BEST: BEST,
    job_pb2.STYLE_METHOD_CLASSIC: Method(
        ImageOptimisation,
        lambda style, mask: losses.gram_loss(losses.gram(style), mask),
        lambda _: lbfgs(),
        1.0,
    ),
}


def style_transfer(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """A picture whose deep features are the content's, and the statistics of all of them the styles'.

    Returns:
        "image" of the content's size; and "descent".
    """
    params, content = task.params, task.images["content"]
    method = METHODS[params.method]
    source = Source(task, method, task.network.average_pooled(method.pooled))
    height, width = content.shape[2:]
    sizes = picture_sizes(params, (height, width))
    stages = [
        method.stage(
            params.first_steps if position == 0 else params.steps,
            size,
            source.network,
            partial(source.parts, size),
            source.begin,
            method.optimiser(params),
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
        params, images = task.params, task.images
        self.network = network
        self._params, self._compare = params, method.compare
        self._content = images["content"]
        self._layers = layer_weights(params, task.manifest, style_layers)
        self._content_layer = params.content_layer or content_layer(task.manifest)
        self._styles = [
            (style.weight, images[f"styles[{i}].image"], images.get(f"styles[{i}].mask"))
            for i, style in enumerate(params.styles)
        ]
        self._whole = sum(weight for weight, _, _ in self._styles)

    def parts(self, size: Size) -> list[Part]:
        """The losses for a picture of `size`."""
        params, layer = self._params, self._content_layer
        parts = [Part("tv", PIXELS, params.tv_weight, losses.colour_variation)]
        for number, (weight, image, mask) in enumerate(self._styles):
            share = weight / self._whole
            where = None if mask is None else luminance(resize(mask, size))
            values = features(self.network, self._style(image, size), self._layers)
            parts += [
                Part(f"style{number}.{name}", name, share * self._layers[name], self._compare(value, where))
                for name, value in values.items()
            ]
        content = features(self.network, self._coloured(resize(self._content, size)), [layer])[layer]
        return [*parts, Part("content", layer, params.content_weight, losses.content_loss(content))]

    def begin(self, size: Size, rng: torch.Generator) -> Tensor:
        """The content, or noise where that is asked for, at `size`."""
        if self._params.noise_start:
            return torch.rand(1, 3, *size, generator=rng).to(self._content)
        return self._coloured(resize(self._content, size))

    def _coloured(self, image: Tensor) -> Tensor:
        """The image, without its colours where only light and dark are to be transferred."""
        grey = self._params.colours == job_pb2.COLOURS_LUMINANCE
        return luminance(image).expand_as(image).contiguous() if grey else image

    def _style(self, image: Tensor, size: Size) -> Tensor:
        """A style, as large as the picture along the longer side, in the colours that it shall give."""
        small = resize(image, style_size((image.shape[2], image.shape[3]), size))
        if self._params.colours == job_pb2.COLOURS_COVARIANCE:
            return match_covariance(small, self._content).clamp(0, 1)
        return self._coloured(small)
