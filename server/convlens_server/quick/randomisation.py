"""The model-randomisation sanity check: does a map depend on what the network has learned?

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity checks for saliency maps (2018), arXiv:1810.03292,
section 3.1, cascading randomisation.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convlens.v1 import attribution_pb2
from convlens_models import tensors
from convlens_models.repository import WEIGHTS, StoredModel
from convlens_server.backends.base import F32, F64, Backend
from convlens_server.quick.attribution import Requested, apply, resolve
from convlens_server.techniques.parts.targets import Target

KERNELS: Final = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def cascade(
    backend: Backend, images: F32, requested: Requested, layers: int, seed: int
) -> Iterator[attribution_pb2.CheckRandomisationResponse]:
    """Spearman's correlations of each map with the trained network's, once for each further random layer.

    From the last layer down to the first, or through `layers` of them (0: all), the kernel and the bias of a
    layer are drawn anew, each from the normal distribution with its own mean and deviation, so that signals
    keep about their size. What is below stays as it was trained. Targets are those of the trained network.

    Raises:
        FailedPrecondition: the backend cannot run with other weights.
        InvalidArgument: as `attribute`.
    """
    targets = resolve(backend, images, requested)
    trained = _maps(backend, images, targets, requested)
    rng = np.random.default_rng(seed)
    with TemporaryDirectory(prefix="convlens-") as name:
        folder = Path(name)
        file = shutil.copyfile(backend.stored.file(WEIGHTS), folder / WEIGHTS)
        for layer, keys in weighted_layers(backend.stored)[: layers or None]:
            redraw(file, keys, rng)
            maps = _maps(backend.with_weights(folder), images, targets, requested)
            yield attribution_pb2.CheckRandomisationResponse(
                layer=layer, correlations=[_correlation(*pair) for pair in zip(trained, maps, strict=True)]
            )


def weighted_layers(stored: StoredModel) -> list[tuple[str, list[str]]]:
    """The layers with a kernel, from the top down, each with the names of its weights."""
    entries = tensors.index(stored.file(WEIGHTS))
    weights = {
        node.output[0]: [name for name in node.input[1:] if name in entries]
        for node in stored.forward().graph.node
        if node.op_type in KERNELS
    }
    return [
        (layer.name, weights[layer.tensor])
        for layer in reversed(stored.manifest.layers)
        if weights.get(layer.tensor)
    ]


def redraw(file: Path, keys: Sequence[str], rng: np.random.Generator) -> None:
    """Replace tensors of a safetensors file by normal noise of their own mean and deviation."""
    entries = tensors.index(file)
    data = np.memmap(file, np.uint8, mode="r+")
    for key in keys:
        entry = entries[key]
        values = data[entry.offset : entry.offset + entry.length].view(tensors.DTYPES[entry.dtype][0])
        mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        values[:] = mean + deviation * rng.standard_normal(values.size, np.float32)
    data.flush()


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Spearman's correlation over all values, ties ranked by their mean; NaN where either is constant."""
    first, second = (_ranks(values) for values in (a, b))
    scale = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / scale) if scale else math.nan


def _ranks(values: NDArray[Any]) -> F64:
    """The ranks of all values, less their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse.ravel()]
    return np.asarray(ranks - ranks.mean(), np.float64)


def _maps(backend: Backend, images: F32, targets: Sequence[Target], requested: Requested) -> list[F32]:
    return [
        apply(backend, images, target, item, f"attributions[{position}]").attribution
        for position, (target, item) in enumerate(zip(targets, requested, strict=True))
    ]


def _correlation(a: F32, b: F32) -> attribution_pb2.RankCorrelation:
    return attribution_pb2.RankCorrelation(signed=spearman(a, b), absolute=spearman(np.abs(a), np.abs(b)))
