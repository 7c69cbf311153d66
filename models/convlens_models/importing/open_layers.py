"""The layers of a graph of one size that are computed at every size: those before its head, where proven."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_models.graphs import autodiff, surgery
from convlens_models.importing import verify
from convlens_models.importing.original import Original
from convlens_models.importing.pictures import pictures
from convlens_models.importing.proof import Served
from convlens_models.manifest import INPUT, Layer

ALL: Final = "all_layers"
TOLERANCE: Final = 1e-3
Images = NDArray[np.float32]


def open_layers(served: Served, layers: Sequence[Layer], size: int, original: Original) -> set[str]:
    """The names of the maps whose values and gradients are those of `original` at other sizes than `size`.

    They must grow with the image as their strides say, have at two sizes that are no multiples of these the
    values of the original, and the gradients of graphs of just these sizes.

    Args:
        served: the graph in our form.
        layers: its layers as they are for square images of `size` pixels.
        original: the file, its size open.
    """
    model = surgery.opened(served.model)
    maps = _growing(model, layers, size)
    if not maps:
        return set()
    least = max(size - (min(layer.shape[1:]) - 1) * layer.stride for layer in maps)
    names = [layer.tensor for layer in maps]
    try:
        proven = all(
            _same(replace(served, model=model), names, pictures(height, width, 1), original)
            for height, width in ((least, least + 51), (least + 33, least + 18))
        )
    except (InvalidArgument, onnx.shape_inference.InferenceError):
        return set()
    return {layer.name for layer in maps} if proven else set()


def _growing(model: onnx.ModelProto, layers: Sequence[Layer], size: int) -> list[Layer]:
    """The maps that have a position more, along each axis, for each stride that the image is longer."""
    maps = [layer for layer in layers if len(layer.shape) == 3 and layer.stride]
    step = math.lcm(*(layer.stride for layer in maps))
    shapes = surgery.shapes(surgery.static(model, (1, size + step, size + 2 * step), strict=False))

    def grown(layer: Layer) -> tuple[int, ...]:
        channels, height, width = layer.shape
        return 1, channels, height + step // layer.stride, width + 2 * step // layer.stride

    return [layer for layer in maps if shapes.get(layer.tensor) == grown(layer)]


def _same(served: Served, names: Sequence[str], image: Images, original: Original) -> bool:
    """Whether values are those of the original, and gradients by the open graph those by one of this size."""
    model, folder = served.model, served.folder
    values = verify.run(surgery.cut(model, names), folder, names, {INPUT: image})
    exact = original.values(image, [served.former.get(name, name) for name in names])
    joined = surgery.flattened(model, names, ALL)
    cotangent = np.ones((1, sum(value.size for value in values)), np.float32)
    feeds: Mapping[str, Images] = {INPUT: image, autodiff.COTANGENT: cotangent}
    found, expected = (
        verify.run(autodiff.differentiate(joined, ALL, shape=shape), folder, [autodiff.IMAGE_GRADIENT], feeds)
        for shape in (None, (1, *image.shape[2:]))
    )
    return all(map(_close, [*values, *found], [*exact, *expected]))


def _close(found: Images, expected: Images) -> bool:
    """Whether two values are finite and, relative to the largest number, the same."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return False
    return bool(np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max())
