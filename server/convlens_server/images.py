"""A request's pictures to one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2
from convlens_models.manifest import Manifest
from convlens_models.preprocess import to_input
from convlens_server.engines.base import F32


def batch(images: Sequence[image_pb2.Image], manifest: Manifest, max_pixels: int) -> F32:
    """The pictures as float32 (N, 3, H, W) in [0, 1].

    Raises:
        InvalidArgument: a picture that `to_input` refuses, several sizes, or more than `max_pixels` pixels
            together.
    """
    first = to_input(images[0], manifest, field="images[0]")
    _, height, width = first.shape
    if len(images) * height * width > max_pixels:
        shown = f"{len(images)} of {height} x {width} pixels"
        raise InvalidArgument.of("images", shown, f"at most {max_pixels} pixels together")
    together = np.empty((len(images), *first.shape), np.float32)
    together[0] = first
    for position, image in enumerate(images[1:], start=1):
        field = f"images[{position}]"
        pixels = to_input(image, manifest, field=field)
        if pixels.shape != first.shape:
            shown = f"{pixels.shape[1]} x {pixels.shape[2]} pixels"
            raise InvalidArgument.of(field, shown, f"{height} x {width} pixels, as images[0]")
        together[position] = pixels
    return together
