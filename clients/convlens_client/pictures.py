"""What the server does not take, as what it does: other files, other modes of Pillow, other arrays.

Nothing is guessed that could end as a black picture unseen: values are scaled by what their type or their
range says, and refused where neither does.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError

from convlens import wire
from convlens.errors import ConvLensError, InvalidArgument
from convlens.v1 import image_pb2 as pb
from convlens_client.contract import bounds

SUFFIXES: Final = (
    *(".png", ".jpg", ".jpeg", ".webp"),
    *(".avif", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif"),
)
"""How files end that are taken for pictures in folders."""
TAKEN: Final = ("JPEG", "MPO")
STILL: Final = ("PNG", "WEBP")
"""Formats of Pillow that the server takes: all files of the first ones, of the others those of one frame."""
LEAST: Final = int(bounds(pb.Resize.Exact.DESCRIPTOR.fields_by_name["height"]).min)
"""Pixels that a side has at least."""
HEIF: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
FULL: Final = {"F": (1, 255, 65535), "I": (255, 65535), "I;16": (65535,)}
"""What may be white, by mode: the least of these that no value exceeds."""
CHANNELS: Final = (1, 3, 4)
ALLOWED: Final = (
    "a path, the bytes of a file, a Pillow image, or pixels (uint8, uint16, bool, floats in [0, 1]) of shape"
    " (H, W), (H, W, C) or (C, H, W), where C is 1, 3 or 4"
)


def as_file(data: bytes, field: str, frame: int | None = None) -> bytes:
    """A file as it is where the server takes it, else its picture, or one of its frames, as a PNG.

    Bytes that no decoder here knows stay as they are: the server says what is wrong with them.

    Raises:
        InvalidArgument: a picture that cannot be read here, is too small or too large, or has no such frame.
    """
    image = _open(data, field)
    if image is None:
        return data
    with image:
        check_size(image.width, image.height, field)
        frames = getattr(image, "n_frames", 1)
        if frame is None and (image.format in TAKEN or (image.format in STILL and frames == 1)):
            return data
        if not 0 <= (frame or 0) < frames:
            raise InvalidArgument.of("frame", frame, f"between 0 and {frames - 1}, the frames of {field}")
        try:
            image.seek(frame or 0)
            return as_png(image, field)
        except ConvLensError:
            raise
        except Exception as error:  # Pillow's decoders raise what they like on damaged files.
            allowed = f"a whole {image.format} file ({error})"
            raise InvalidArgument.of(field, f"{len(data)} bytes", allowed) from error


def as_png(image: PILImage.Image, field: str) -> bytes:
    """Lossless, so that a Pillow image means the same as its file; quick rather than small."""
    check_size(image.width, image.height, field)
    buffer = io.BytesIO()
    PILImage.fromarray(_pixels(image, field)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def as_array(image: Any) -> NDArray[Any] | None:
    """The array of NumPy that a tensor of any library is; None for what is none."""
    if isinstance(image, np.ndarray):
        return image
    if hasattr(image, "detach"):  # PyTorch's, wherever it lies; NumPy knows no bfloat16.
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image
    return np.asarray(image) if hasattr(image, "__array__") and not np.isscalar(image) else None


def as_tensor(array: NDArray[Any], field: str) -> pb.Image:
    """An array as the tensor that the server takes: uint8 (H, W, 3) or float32 (3, H, W)."""
    told = f"{array.dtype} array of shape {array.shape}"
    if array.dtype == np.uint16:
        array = _scaled(array, FULL["I;16"], field, told)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    real = array.dtype.kind == "f"
    axis = _channels(array.shape, (0, -1) if real else (-1, 0))
    if axis is None or not (real or array.dtype == np.uint8):
        raise InvalidArgument.of(field, told, ALLOWED)
    last = array[..., None] if array.ndim == 2 else np.moveaxis(array, axis, -1)
    check_size(last.shape[1], last.shape[0], field)
    if last.shape[-1] == 4:
        last = _over_white(last.astype(np.float32), 1 if real else 255)
    elif last.shape[-1] == 1:
        last = np.broadcast_to(last, (*last.shape[:2], 3))
    if real:
        return pb.Image(tensor=wire.to_tensor(np.moveaxis(last, -1, 0).astype(np.float32, copy=False)))
    return pb.Image(tensor=wire.to_tensor(np.rint(last).astype(np.uint8) if last.dtype != np.uint8 else last))


def check_size(width: int, height: int, field: str) -> None:
    """Raises InvalidArgument for a picture that is too small to be one, or too large to be decoded."""
    shown = f"{width} x {height} pixels"
    if min(width, height) < LEAST:
        raise InvalidArgument.of(field, shown, f"at least {LEAST} pixels a side")
    if width * height > wire.MAX_PIXELS:
        raise InvalidArgument.of(field, shown, f"at most {wire.MAX_PIXELS} pixels")


def _open(data: bytes, field: str) -> PILImage.Image | None:
    """The picture, not decoded yet; None for what Pillow does not know."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIF:
        try:
            import_module("pillow_heif").register_heif_opener()
        except ImportError as error:
            allowed = "PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF; or HEIC once pillow-heif is installed"
            raise InvalidArgument.of(
                field, "a HEIC file", f"{allowed} (pip install 'convlens[heic]')"
            ) from error
    try:
        return PILImage.open(io.BytesIO(data))
    except UnidentifiedImageError:
        return None
    except Exception:  # A file that claims too many pixels, or is damaged.
        return None


def _pixels(image: PILImage.Image, field: str) -> NDArray[np.uint8]:
    """RGB pixels of an image of any mode; transparency is laid over white, as the server does."""
    image = ImageOps.exif_transpose(image)
    kind = "I;16" if image.mode.startswith("I;16") else image.mode
    if kind in FULL:
        told = f"a Pillow image of mode {image.mode}"
        values = np.asarray(image)
        scaled = _scaled(values, FULL[kind], field, told)
        transparent = values == image.info.get("transparency", np.nan)  # Over white, as the server does.
        image = PILImage.fromarray(np.where(transparent, np.uint8(255), scaled))
    elif image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    try:
        return wire.to_pixels(image)
    except ValueError as error:
        raise InvalidArgument.of(field, f"a Pillow image of mode {image.mode}", f"RGB ({error})") from error


def _scaled(values: NDArray[Any], full: Sequence[int], field: str, told: str) -> NDArray[np.uint8]:
    """Values as 8 bits, where white is the least of `full` that none exceeds."""
    low, high = float(values.min()), float(values.max())
    white = next((each for each in full if high <= each), None)
    if white is None or not low >= 0:
        ranges = " or ".join(map(str, full))
        raise InvalidArgument.of(field, f"{told} with values {low:g} to {high:g}", f"from 0 to {ranges}")
    if white == 65535:
        scaled = (values // 257).astype(np.uint8)  # As the server does with 16-bit files.
    else:
        scaled = np.rint(values * (255 / white)).astype(np.uint8)
    if high > 0 and not scaled.any():
        allowed = f"brighter, where white is {white}: all of it would be black"
        raise InvalidArgument.of(field, f"{told} with values up to {high:g}", allowed)
    return scaled


def _channels(shape: Sequence[int], axes: tuple[int, int]) -> int | None:
    """The axis of the channels, the first of `axes` where both may be; None where neither is."""
    if len(shape) == 2:
        return -1
    if len(shape) != 3:
        return None
    colour = [axis for axis in axes if shape[axis] == 3]
    return next(iter([*colour, *(axis for axis in axes if shape[axis] in CHANNELS)]), None)


def _over_white(rgba: NDArray[Any], white: int) -> NDArray[Any]:
    opaque = rgba[..., 3:] / white
    laid: NDArray[Any] = rgba[..., :3] * opaque + white * (1 - opaque)
    return laid
