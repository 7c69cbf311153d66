"""The pictures of a job: found in its message by one walk, and decoded one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from convlens.v1 import bounds_pb2, image_pb2
from convlens_models.manifest import Manifest
from convlens_models.preprocess import to_input

Size = tuple[int, int]
"""Height and width in pixels."""
ANY_SIZE: Final = {"dynamic_size": True, "min_size": 1}
"""What a manifest says of a network for pictures that the technique brings to size itself."""


def decode_images(
    params: Message, manifest: Manifest, technique: str
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The path of every picture in a technique's message, as "styles[0].mask", with its pixels.

    Pixels are (3, H, W) in [0, 1]; pictures without `resize` keep their size.

    Raises:
        InvalidArgument: as `to_input`; names the field of `technique`.
    """
    for path, image, any_size in find_images(params):
        accepted = manifest.model_copy(update=ANY_SIZE) if any_size else manifest
        yield path, to_input(image, accepted, "keep", f"{technique}.{path}")


def find_images(
    message: Message, path: str = "", any_size: bool = False
) -> Iterator[tuple[str, image_pb2.Image, bool]]:
    """Every `Image` in a message with its path, and whether its field takes any size, in their order."""
    if isinstance(message, image_pb2.Image):
        yield path, message, any_size
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            here = f"{path}.{field.name}" if path else field.name
            free = field.GetOptions().Extensions[bounds_pb2.bounds].any_size
            if field.is_repeated:
                for position, item in enumerate(value):
                    yield from find_images(item, f"{here}[{position}]", free)
            else:
                yield from find_images(value, here, free)
