"""The pictures of a quick call, as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2
from convlens_models.manifest import Manifest
from convlens_models.preprocess import to_input
from convlens_server.backends.base import F32


def batch(
    images: Sequence[image_pb2.Image], manifest: Manifest, max_pixels: int, field: str = "images[{}]"
) -> F32:
    """The pictures as float32 (N, 3, H, W) in [0, 1].

    Args:
        field: path of a picture in the request, for messages, with {} for its position.

    Raises:
        InvalidArgument: a picture that `to_input` refuses, several sizes, or more than `max_pixels` pixels
            together.
    """
    first = to_input(images[0], manifest, field=field.format(0))
    _, height, width = first.shape
    if len(images) * height * width > max_pixels:
        shown = f"{len(images)} of {height} x {width} pixels"
        together = field.format(0) if len(images) == 1 else field.partition("[")[0]
        raise InvalidArgument.of(together, shown, f"at most {max_pixels} pixels together")
    stacked = np.empty((len(images), *first.shape), np.float32)
    stacked[0] = first
    for position, image in enumerate(images[1:], start=1):
        here = field.format(position)
        pixels = to_input(image, manifest, field=here)
        if pixels.shape != first.shape:
            shown = f"{pixels.shape[1]} x {pixels.shape[2]} pixels"
            raise InvalidArgument.of(here, shown, f"{height} x {width} pixels, as {field.format(0)}")
        stacked[position] = pixels
    return stacked
