"""A request's pictures: to one batch for a quick call, looked at before a job."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2
from convlens_models.manifest import Manifest
from convlens_models.preprocess import to_input
from convlens_server.backends.base import F32

Size = tuple[int, int]
"""Height and width."""


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


def sizes(message: Message, manifest: Manifest, path: str) -> dict[str, Size]:
    """Height and width of each picture of a job, by path; refuses one that a worker could not use.

    Args:
        message: the technique's message; every `Image` in it is decoded, with `keep` as default resize.
        path: of the message in the request.

    Raises:
        InvalidArgument: as `to_input`.
    """
    if isinstance(message, image_pb2.Image):
        _, height, width = to_input(message, manifest, "keep", path).shape
        return {path: (height, width)}
    found: dict[str, Size] = {}
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            here = f"{path}.{field.name}"
            many = (
                {f"{here}[{i}]": item for i, item in enumerate(value)} if field.is_repeated else {here: value}
            )
            for place, item in many.items():
                found |= sizes(item, manifest, place)
    return found
