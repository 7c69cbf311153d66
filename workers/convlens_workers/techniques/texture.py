"""Texture synthesis by Gram matrices (Gatys, Ecker & Bethge, NIPS 2015, arXiv:1505.07376)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_workers.jobs.techniques.layers import activations, layer_weights
from convlens_workers.jobs.techniques.texture import picture_sizes, sample_size
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts.colours import match_covariance, match_histogram
from convlens_workers.techniques.parts.descent import descent
from convlens_workers.techniques.parts.image_optimisation import Frame, ImageOptimisation, features
from convlens_workers.techniques.parts.loop import optimise
from convlens_workers.techniques.parts.losses import Part, gram, gram_loss
from convlens_workers.techniques.parts.optimisers import Optimiser, adam, lbfgs
from convlens_workers.techniques.parts.pixels import Size, resize

Params = job_pb2.Texture
EXPECTED_FALL: Final = 0.5
"""Of the loss. Textures that look like their sample have lost 95% of it or more; noise stays above half."""
OPTIMISERS: Final[dict[int, Callable[[float], Optimiser]]] = {
    job_pb2.OPTIMISER_UNSPECIFIED: lambda _: lbfgs(),
    job_pb2.OPTIMISER_LBFGS: lambda _: lbfgs(),
    job_pb2.OPTIMISER_ADAM: adam,
}


def texture(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Noise, changed until its Gram matrices are those of the sample; then its colours too.

    Returns:
        "image" (1, 3, height, width) in [0, 1]; and "descent".
    """
    params, sample = task.params, task.images["sample"]
    weights = layer_weights(params, task.manifest, activations)
    network = task.network if params.max_pooling else task.network.average_pooled()

    def stage(size: Size) -> ImageOptimisation:
        def parts() -> list[Part]:
            values = features(network, resize(sample, sample_size(own, size, sizes[-1])), weights)
            return [Part(name, name, weights[name], gram_loss(gram(value))) for name, value in values.items()]

        optimiser = OPTIMISERS[params.optimiser](params.learning_rate)
        return ImageOptimisation(params.steps, size, network, parts, begin, optimiser, frame)

    def begin(size: Size, rng: torch.Generator) -> Tensor:
        return noise_like(sample, size, rng)

    frame: Frame = "circular" if params.seamless else "reflect"
    own = (sample.shape[2], sample.shape[3])
    sizes = picture_sizes(params, own)
    stages = [stage(size) for size in sizes]
    last = yield from optimise(stages, state, task.seed, task.device)
    image = stages[-1].picture(last)
    if not params.keep_colours:
        image = match_histogram(match_covariance(image, sample), sample)
    return {"image": image, **descent(last, EXPECTED_FALL)}


def noise_like(sample: Tensor, size: Size, rng: torch.Generator) -> Tensor:
    """Noise (1, 3, *size) with the mean and covariance of the sample's colours: grey for a grey one."""
    return match_covariance(torch.randn(1, 3, *size, generator=rng).to(sample), sample)
