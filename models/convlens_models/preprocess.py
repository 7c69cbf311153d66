"""A request's picture to the network's input: decode, bring to size, scale to [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from convlens import wire
from convlens.containers import stripped
from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2
from convlens_models.manifest import Interpolation, Manifest

MIN_SIDE: Final = 8
MAX_SIDE: Final = 4096
MAX_SCALED: Final = 2 * MAX_SIDE**2
"""Pixels of a picture that is scaled before the input is cut out of it."""

LONGEST: Final = 16
"""Of a picture that is so many times as long as wide only the middle is scaled before a square is cut out."""

INTERPOLATIONS: Final[dict[Interpolation, PILImage.Resampling]] = {
    "bilinear": PILImage.Resampling.BILINEAR,
    "bicubic": PILImage.Resampling.BICUBIC,
}

Pixels = NDArray[Any]  # (H, W, 3), uint8 in 0..255 or float32 in [0, 1]


def to_input(
    image: image_pb2.Image,
    manifest: Manifest,
    default: Literal["short_side", "keep"] = "short_side",
    field: str = "image",
) -> NDArray[np.float32]:
    """The input (3, H, W) in [0, 1] that `manifest`'s network gets for `image`.

    Files and UINT8 are resized as 8-bit RGB, as ImageNet's evaluation does; FP32 as floats. Always with
    antialiasing; bilinear, or bicubic where the manifest says so.

    Args:
        image: encoded file, or a tensor: UINT8 (H, W, 3), or FP32 (3, H, W) in [0, 1].
        manifest: gives the default crop and the sizes that are accepted.
        default: how an encoded picture without `resize` is brought to size; tensors are kept as they are.
        field: path of `image` in the request, for messages.

    Raises:
        InvalidArgument: undecodable, wrong datatype or shape, values outside [0, 1], or a size that the
            network does not accept.
    """
    pixels = _source(image, field)
    mode = image.resize.WhichOneof("mode") or (default if image.WhichOneof("source") == "encoded" else "keep")
    pixels = RESIZE[mode](pixels, image.resize, manifest, f"{field}.resize.{mode}")
    _check_size(pixels.shape[0], pixels.shape[1], manifest, field)
    scaled = pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)


def input_size(
    image: image_pb2.Image,
    manifest: Manifest,
    source: tuple[int, int],
    default: Literal["short_side", "keep"] = "short_side",
) -> tuple[int, int]:
    """Height and width of `to_input`'s result for a picture of height and width `source`, if it gives any."""
    mode = image.resize.WhichOneof("mode") or (default if image.WhichOneof("source") == "encoded" else "keep")
    return SIZES[mode](source, image.resize, manifest)


def source_size(image: image_pb2.Image) -> tuple[int, int]:
    """Height and width of a picture as its file, or its tensor, claims; (0, 0) where it is damaged."""
    if image.WhichOneof("source") == "encoded":
        try:
            picture = stripped(image.encoded)
        except ValueError:
            return 0, 0
        turned = picture.orientation > 4
        return (picture.width, picture.height) if turned else (picture.height, picture.width)
    shape = image.tensor.shape
    if len(shape) != 3:
        return 0, 0
    height, width = shape[1:] if image.tensor.datatype == "FP32" else shape[:2]
    return int(height), int(width)


def _source(image: image_pb2.Image, field: str) -> Pixels:
    if image.WhichOneof("source") == "encoded":
        return wire.decode_image(image.encoded, f"{field}.encoded")
    field = f"{field}.tensor"
    array = wire.from_tensor(image.tensor, field)
    axis = {"UINT8": 2, "FP32": 0}.get(image.tensor.datatype)
    if axis is None or array.ndim != 3 or array.shape[axis] != 3 or 0 in array.shape:
        shown = f"{image.tensor.datatype} {list(array.shape)}"
        raise InvalidArgument.of(field, shown, "UINT8 of shape (H, W, 3) or FP32 of shape (3, H, W)")
    if axis == 2:
        return array
    return wire.within_unit(array, field).transpose(1, 2, 0)


def _short_side(pixels: Pixels, resize: image_pb2.Resize, manifest: Manifest, field: str) -> Pixels:
    wanted = resize.short_side
    crop = _crop(resize, manifest)
    size = wanted.size if wanted.HasField("size") else round(crop * 256 / 224)
    if crop > size:
        raise InvalidArgument.of(f"{field}.crop", crop, f"at most the size of the short side, {size}")
    height, width = pixels.shape[:2]
    short = min(height, width)
    if max(height, width) > LONGEST * short:
        _check_scaled(height * size // short, width * size // short, field)
        pixels = pixels[_central(height, short), _central(width, short)]
        height, width = pixels.shape[:2]
    pixels = _scale(pixels, height * size // short, width * size // short, manifest, field)
    top, left = (round((side - crop) / 2) for side in pixels.shape[:2])
    return pixels[top : top + crop, left : left + crop]


def _central(side: int, short: int) -> slice:
    """The part of a side, in its middle, that is scaled before a square is cut out of it."""
    beyond = max(0, side - LONGEST * short) // 2
    return slice(beyond, side - beyond)


def _crop(resize: image_pb2.Resize, manifest: Manifest) -> int:
    """The side of the square that is cut out."""
    return resize.short_side.crop if resize.short_side.HasField("crop") else manifest.input_size


def _exact(pixels: Pixels, resize: image_pb2.Resize, manifest: Manifest, field: str) -> Pixels:
    return _scale(pixels, resize.exact.height, resize.exact.width, manifest, field)


def _fit(pixels: Pixels, resize: image_pb2.Resize, manifest: Manifest, field: str) -> Pixels:
    height, width = _fitting((pixels.shape[0], pixels.shape[1]), resize)
    return _scale(pixels, height, width, manifest, field)


def _fitting(size: tuple[int, int], resize: image_pb2.Resize) -> tuple[int, int]:
    fit = resize.fit
    ratio = fit.max_side / max(1, min(size) if fit.shorter else max(size))
    ratio = ratio if fit.enlarge else min(1.0, ratio)
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def _keep(pixels: Pixels, *_: object) -> Pixels:
    return pixels


RESIZE: Final[dict[str, Callable[[Pixels, image_pb2.Resize, Manifest, str], Pixels]]] = {
    "short_side": _short_side,
    "exact": _exact,
    "fit": _fit,
    "keep": _keep,
}


SIZES: Final[dict[str, Callable[[tuple[int, int], image_pb2.Resize, Manifest], tuple[int, int]]]] = {
    "short_side": lambda _, resize, manifest: (_crop(resize, manifest),) * 2,
    "exact": lambda _, resize, __: (resize.exact.height, resize.exact.width),
    "fit": lambda size, resize, _: _fitting(size, resize),
    "keep": lambda size, *_: size,
}
"""The height and width that each mode makes of a height and width."""


def _scale(pixels: Pixels, height: int, width: int, manifest: Manifest, field: str) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    _check_scaled(height, width, field)
    size, how = (width, height), INTERPOLATIONS[manifest.interpolation]
    if pixels.dtype == np.uint8:
        return np.asarray(PILImage.fromarray(pixels).resize(size, how))
    planes = [np.asarray(PILImage.fromarray(plane).resize(size, how)) for plane in pixels.transpose(2, 0, 1)]
    return np.stack(planes, axis=-1).clip(0, 1)


def _check_scaled(height: int, width: int, field: str) -> None:
    if min(height, width) < 1 or height * width > MAX_SCALED:
        raise InvalidArgument.of(
            field, f"{height} x {width} pixels", f"at most {MAX_SCALED} pixels when scaled"
        )


def _check_size(height: int, width: int, manifest: Manifest, field: str) -> None:
    shown = f"{height} x {width} pixels"
    side = manifest.input_size
    if not manifest.dynamic_size and (height, width) != (side, side):
        raise InvalidArgument.of(field, shown, f"{side} x {side}, {manifest.why_one_size}")
    low = max(MIN_SIDE, manifest.min_size)
    beyond = min(height, width) < low or max(height, width) > MAX_SIDE
    if beyond or not manifest.takes(height, width):
        allowed = f"between {low} and {MAX_SIDE} a side{manifest.steps} for {manifest.name}"
        raise InvalidArgument.of(field, shown, allowed)
