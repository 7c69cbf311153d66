"""The model-randomisation sanity check: does a map depend on what the network has learned?

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity checks for saliency maps (2018), arXiv:1810.03292,
section 3.1, cascading randomisation.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from convlens.v1 import attribution_pb2
from convlens_models import tensors
from convlens_models.attributions.targets import Target
from convlens_models.repository import WEIGHTS, StoredModel
from convlens_server.backends.base import F32, F64, Backend
from convlens_server.quick.attribution import Requested, apply, resolve

KERNELS: Final = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def cascade(
    backend: Backend, images: F32, request: attribution_pb2.CheckRandomisationRequest
) -> Iterator[attribution_pb2.CheckRandomisationResponse]:
    """Spearman's correlations of each map with the trained network's, once for each further random layer.

    From the last layer down to the first, or through `layers` of them (0: all), the kernel and the bias of a
    layer are drawn anew, as `redraw` says. What is below stays as it was trained. Targets are those of the
    trained network.

    Raises:
        FailedPrecondition: the backend cannot run with other weights.
        InvalidArgument: as `attribute`.
    """
    requested = request.attributions
    targets = resolve(backend, images, requested)
    trained = _maps(backend, images, targets, requested)
    rng = np.random.default_rng(request.seed)
    with TemporaryDirectory(prefix="convlens-") as name:
        folder = Path(name)
        file = shutil.copyfile(backend.stored.file(WEIGHTS), folder / WEIGHTS)
        for layer in weighted_layers(backend.stored)[: request.layers or None]:
            redraw(file, layer, rng, request.weights)
            maps = _maps(backend.with_weights(folder), images, targets, requested)
            yield attribution_pb2.CheckRandomisationResponse(
                layer=layer.name,
                correlations=[_correlation(*pair) for pair in zip(trained, maps, strict=True)],
            )


class WeightedLayer(NamedTuple):
    """A layer with a kernel, the names of its weights, and how many numbers each of its outputs sums up."""

    name: str
    keys: list[str]
    fan_in: int


def weighted_layers(stored: StoredModel) -> list[WeightedLayer]:
    """The layers with a kernel, from the top down."""
    entries = tensors.index(stored.file(WEIGHTS))
    weights = {
        node.output[0]: (keys, _fan_in(node, entries[keys[0]].shape))
        for node in stored.forward().graph.node
        if node.op_type in KERNELS and (keys := [name for name in node.input[1:] if name in entries])
    }
    return [
        WeightedLayer(layer.name, *weights[layer.tensor])
        for layer in reversed(stored.manifest.layers)
        if layer.tensor in weights
    ]


def redraw(file: Path, layer: WeightedLayer, rng: np.random.Generator, weights: int) -> None:
    """Replace a layer's tensors in a safetensors file by noise: where it comes from, DISTRIBUTIONS say."""
    entries = tensors.index(file)
    data = np.memmap(file, np.uint8, mode="r+")
    for key in layer.keys:
        entry = entries[key]
        values = data[entry.offset : entry.offset + entry.length].view(tensors.DTYPES[entry.dtype][0])
        values[:] = DISTRIBUTIONS[weights](values, layer.fan_in, rng)
    data.flush()


def initialiser(values: NDArray[Any], fan_in: int, rng: np.random.Generator) -> F32:
    """Uniform in +-1/sqrt(fan_in): He's initialiser for a = sqrt(5), and PyTorch's for biases.

    He, Zhang, Ren, Sun: Delving deep into rectifiers (2015), arXiv:1502.01852.
    """
    bound = np.float32(1 / math.sqrt(fan_in))
    return np.asarray(bound * (2 * rng.random(values.size, np.float32) - 1))


def zero_mean(values: NDArray[Any], _: int, rng: np.random.Generator) -> F32:
    """Normal around 0, with the deviation of `values`."""
    return np.asarray(values.std(dtype=np.float64) * rng.standard_normal(values.size, np.float32))


def own_mean(values: NDArray[Any], fan_in: int, rng: np.random.Generator) -> F32:
    """Normal, with mean and deviation of `values`."""
    return np.asarray(values.mean(dtype=np.float64) + zero_mean(values, fan_in, rng))


DISTRIBUTIONS: Final[Mapping[int, Callable[[NDArray[Any], int, np.random.Generator], F32]]] = {
    attribution_pb2.RANDOM_WEIGHTS_UNSPECIFIED: initialiser,
    attribution_pb2.RANDOM_WEIGHTS_INITIALISER: initialiser,
    attribution_pb2.RANDOM_WEIGHTS_ZERO_MEAN: zero_mean,
    attribution_pb2.RANDOM_WEIGHTS_OWN_MEAN: own_mean,
}


def _fan_in(node: onnx.NodeProto, shape: Sequence[int]) -> int:
    """Numbers that an output of the node sums up; of transposed convolutions PyTorch's count of channels."""
    turned = any(item.name == "transB" and item.i for item in node.attribute)
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not turned):
        return int(shape[-2])
    return math.prod(shape[1:])


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


def _correlation(trained: F32, randomised: F32) -> attribution_pb2.RankCorrelation:
    return attribution_pb2.RankCorrelation(
        signed=spearman(trained, randomised),
        absolute=spearman(np.abs(trained), np.abs(randomised)),
        blank=not np.ptp(randomised),
        trained_blank=not np.ptp(trained),
    )
