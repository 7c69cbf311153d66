"""Images of a collection: looked at when they come in, and made small when they go out."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from PIL import Image

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import collection_pb2, unit_pb2
from convlens_server.backends.base import F32

LONGEST: Final = 32
"""The most that the longer side may be of the shorter one, so that a network's input can be cut out."""
PEAK: Final = 99.5
"""The percentile of |values| that is drawn in full colour."""


def examine(file: collection_pb2.NamedFile, max_bytes: int) -> collection_pb2.CollectionImage:
    """Name, digest and size of an image that a network will be able to take.

    Raises:
        InvalidArgument: too large, undecodable, or a strip.
    """
    if len(file.encoded) > max_bytes:
        raise InvalidArgument.of("encoded", f"{len(file.encoded)} bytes", f"at most {max_bytes} bytes")
    height, width = wire.decode_image(file.encoded).shape[:2]
    if max(height, width) > LONGEST * min(height, width):
        allowed = f"at most {LONGEST} times as long as wide"
        raise InvalidArgument.of("encoded", f"{width} x {height} pixels", allowed)
    return collection_pb2.CollectionImage(
        name=file.name,
        digest=hashlib.sha256(file.encoded).hexdigest(),
        width=width,
        height=height,
        bytes=len(file.encoded),
    )


def thumbnail(data: bytes, side: int) -> bytes:
    """JPEG of a file, its longer side at most `side` pixels; never enlarged."""
    image = Image.fromarray(wire.decode_image(data))
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return wire.encode_image(np.asarray(image), "JPEG", quality=85)


def crop(pixels: F32, box: unit_pb2.Box) -> bytes:
    """PNG of a box of an input (3, H, W) in [0, 1]."""
    return wire.encode_image(pixels[:, box.top : box.bottom, box.left : box.right])


def signed(pattern: F32) -> bytes:
    """PNG of a signed pattern (3, h, w): nothing is mid-grey, the 99.5th percentile full colour."""
    peak = float(np.percentile(np.abs(pattern), PEAK)) or float(np.abs(pattern).max()) or 1.0
    return wire.encode_image(0.5 + 0.5 * pattern / peak)
