"""Arrays and pictures on the wire: ndarray <-> wire tensor, image bytes <-> ndarray."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, Final, Protocol, TypeVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps

from convlens.containers import Picture, stripped
from convlens.errors import ConvLensError, DataLoss, InvalidArgument
from convlens.v1 import tensor_pb2

T = TypeVar("T", bound=np.generic)

CHUNK_BYTES: Final = 1 << 20
MAX_PIXELS: Final = 64_000_000
LARGE_PIXELS: Final = 8_000_000
"""Pixels of a picture from which on only one is decoded at a time."""
ROUNDING: Final = 1e-6
"""How far pixels in [0, 1] may come out of it when float32 normalises them, and takes that back."""
BAND_PIXELS: Final = 1 << 20
"""Pixels that are brought to RGB at a time."""
FORMATS: Final = ("PNG", "JPEG", "WEBP")
UPRIGHT: Final[dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
"""What turns a picture of each EXIF orientation upright."""
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
LARGE_TURN: Final = 0.05
"""Seconds after which the decoding of a large picture that waits for another one pauses again."""


class Pause(Protocol):
    """Is called between the pieces of what takes long; raises what ends it."""

    def __call__(self, *, holding: bool = False) -> None:
        """Pause; `holding` says that a lock is held."""


def _go_on(*, holding: bool = False) -> None:
    """Do nothing: nobody waits."""


pausing: ContextVar[Pause] = ContextVar("pausing", default=_go_on)
"""The pauses of this thread: a server stops there for callers who have left, and lets others through."""
_one_large = Lock()
NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


def header(name: str, array: NDArray[Any], *, sha256: bool = False) -> tensor_pb2.TensorHeader:
    """The header of a tensor with the values of `array`; with their digest when `sha256`."""
    if array.dtype not in NAMES:
        raise InvalidArgument.of("datatype", array.dtype.name, f"one of {', '.join(DTYPES)}")
    digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() if sha256 else ""
    return tensor_pb2.TensorHeader(
        name=name, datatype=NAMES[array.dtype], shape=array.shape, total_bytes=array.nbytes, sha256=digest
    )


class Assembler:
    """Puts streamed tensors together in buffers allocated once, and checks every chunk.

    A header that comes again before its tensor is complete continues that tensor: a broken stream is resumed
    by asking for the bytes from `received` on.

    >>> array, assembler = np.arange(3, dtype="<f4"), Assembler()
    >>> assembler.add(tensor_pb2.TensorPart(header=header("a", array)))
    >>> crc = google_crc32c.value(array.tobytes())
    >>> assembler.add(tensor_pb2.TensorPart(chunk={"data": array.tobytes(), "crc32c": crc}))
    >>> assembler.finish()["a"]
    array([0., 1., 2.], dtype=float32)
    """

    def __init__(self) -> None:
        self._headers: list[tensor_pb2.TensorHeader] = []
        self._buffers: list[NDArray[np.uint8]] = []
        self.received = 0

    def add(self, part: tensor_pb2.TensorPart) -> None:
        """Take the next part. Raises DataLoss on a gap, an overrun or a wrong checksum."""
        if part.WhichOneof("part") == "header":
            self._open(part.header)
        else:
            self._fill(part.chunk)

    def finish(self) -> dict[str, NDArray[Any]]:
        """The tensors by name. Raises DataLoss when the last one is incomplete or a digest is wrong."""
        self._close()
        return {
            head.name: buffer.view(DTYPES[head.datatype]).reshape(tuple(head.shape))
            for head, buffer in zip(self._headers, self._buffers, strict=True)
        }

    def _open(self, head: tensor_pb2.TensorHeader) -> None:
        if self._headers and head == self._headers[-1] and self.received < head.total_bytes:
            return
        self._close()
        _check_header(head)
        self._headers.append(head)
        self._buffers.append(np.empty(head.total_bytes, np.uint8))
        self.received = 0

    def _fill(self, chunk: tensor_pb2.TensorChunk) -> None:
        offset, data = chunk.offset, chunk.data  # Each access to `data` is a copy.
        if not self._headers or offset != self.received:
            raise DataLoss(f"chunk at byte {offset} where {self.received} was expected")
        end = offset + len(data)
        if end > len(self._buffers[-1]) or google_crc32c.value(data) != chunk.crc32c:
            raise DataLoss(f"chunk at byte {offset} of {self._headers[-1].name!r} is damaged")
        self._buffers[-1][offset:end] = np.frombuffer(data, np.uint8)
        self.received = end

    def _close(self) -> None:
        if not self._headers:
            return
        head, buffer = self._headers[-1], self._buffers[-1]
        if self.received != len(buffer):
            raise DataLoss(f"{head.name!r} ended after {self.received} of {len(buffer)} bytes")
        if head.sha256 and hashlib.sha256(buffer.data).hexdigest() != head.sha256:
            raise DataLoss(f"{head.name!r} does not match its sha256")


def _check_header(head: tensor_pb2.TensorHeader) -> None:
    sound = head.datatype in DTYPES and min(head.shape, default=0) >= 0
    if not sound or head.total_bytes != math.prod(head.shape) * DTYPES[head.datatype].itemsize:
        claim = f"{head.datatype!r} of shape {list(head.shape)} in {head.total_bytes} bytes"
        raise DataLoss(f"{head.name!r} claims to be {claim}")


def to_tensor(array: NDArray[Any]) -> tensor_pb2.Tensor:
    """The tensor of a request with the values of `array`."""
    head = header("", array)
    return tensor_pb2.Tensor(datatype=head.datatype, shape=head.shape, data=array.tobytes())


def from_tensor(tensor: tensor_pb2.Tensor, field: str = "tensor") -> NDArray[Any]:
    """The array of a request's tensor, a read-only view of its bytes.

    Raises:
        InvalidArgument: unknown datatype, a shape that no array has, or a byte count that does not fit it.
    """
    if tensor.datatype not in DTYPES:
        raise InvalidArgument.of(f"{field}.datatype", tensor.datatype, f"one of {', '.join(DTYPES)}")
    dtype, shape = DTYPES[tensor.datatype], tuple(tensor.shape)
    if any(extent < 0 for extent in shape):
        raise InvalidArgument.of(f"{field}.shape", list(shape), "without negative extents")
    expected = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != expected:
        shown = f"{len(tensor.data)} bytes"
        raise InvalidArgument.of(f"{field}.data", shown, f"{expected} bytes for {list(shape)}")
    return reshaped(np.frombuffer(tensor.data, dtype), shape, f"{field}.shape")


def within_unit(values: NDArray[np.float32], field: str) -> NDArray[np.float32]:
    """The values, clipped to [0, 1] where they miss it by no more than `ROUNDING`.

    Raises:
        InvalidArgument: values that are further outside, or no numbers; says the least and the greatest.
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return values
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # Also true for NaN.
        raise InvalidArgument.of(field, f"values from {low:.9g} to {high:.9g}", "finite and within [0, 1]")
    return values.clip(0, 1)


def reshaped(flat: NDArray[T], shape: Sequence[int], field: str) -> NDArray[T]:
    """The array in another shape of as many elements.

    Raises:
        InvalidArgument: more axes than arrays have, or, beside an extent of 0, larger ones.
    """
    try:
        return flat.reshape(tuple(shape))
    except ValueError as error:
        raise InvalidArgument.of(field, list(shape), f"that of an array ({error})") from error


def decode_image(data: bytes, field: str = "encoded", max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3) in 0..255 of a PNG, JPEG or WebP file; the size is checked before pixels are made.

    Transparency is laid over white; EXIF orientation is applied. Nothing else that a file says about its
    picture is read. Large pictures are decoded one after the other, whoever asks; between the pieces of the
    work `pausing` is called.

    Raises:
        InvalidArgument: not one of the formats, truncated, animated, empty, or more than `max_pixels` pixels.
    """
    try:
        picture = stripped(data)
        pixels = picture.width * picture.height
        if pixels > max_pixels:
            shown = f"{picture.width} x {picture.height} pixels"
            raise InvalidArgument.of(field, shown, f"at most {max_pixels} pixels")
        if picture.frames != 1:
            raise InvalidArgument.of(field, f"{picture.frames} frames", "a picture of one frame")
        with _turn(pixels):
            return _decoded(picture)
    except ConvLensError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like on damaged files.
        allowed = f"a whole {', '.join(FORMATS)} file ({error})"
        raise InvalidArgument.of(field, f"{len(data)} bytes", allowed) from error


@contextmanager
def _turn(pixels: int) -> Iterator[None]:
    """The turn of a picture of so many pixels to be decoded: at once, or alone among large ones."""
    pause = pausing.get()
    pause()
    if pixels <= LARGE_PIXELS:
        yield
        return
    while not _one_large.acquire(timeout=LARGE_TURN):
        pause()
    try:
        yield
    finally:
        _one_large.release()


def _decoded(picture: Picture) -> NDArray[np.uint8]:
    """The pixels, brought to RGB some rows at a time, so that there are never more than two of each."""
    with PILImage.open(io.BytesIO(picture.data), formats=FORMATS) as image:
        width, height = image.size
        if (width, height) != (picture.width, picture.height):
            raise ValueError(f"it has {width} x {height} pixels, and claims others")
        image.load()
        pixels = np.empty((height, width, 3), np.uint8)
        rows = max(1, BAND_PIXELS // width)
        for top in range(0, height, rows):
            pausing.get()(holding=True)
            bottom = min(height, top + rows)
            pixels[top:bottom] = np.asarray(_to_rgb(image.crop((0, top, width, bottom))))
    return np.ascontiguousarray(UPRIGHT[picture.orientation](pixels))


def to_pixels(image: PILImage.Image) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3) in 0..255; transparency is laid over white, EXIF orientation is applied."""
    return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


def _to_rgb(image: PILImage.Image) -> PILImage.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow would clip it at 255 instead of scaling it.
        grey = np.asarray(image)
        transparent = grey == image.info.get("transparency", -1)
        image = PILImage.fromarray(np.where(transparent, 255, grey // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return PILImage.alpha_composite(PILImage.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def encode_image(pixels: NDArray[Any], format: str = "PNG", quality: int = 90) -> bytes:  # noqa: A002
    """File bytes of a picture: (H, W, 3) or (H, W) uint8, or (3, H, W) float in [0, 1], rounded to 8 bits."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format=format, quality=quality)
    return buffer.getvalue()
