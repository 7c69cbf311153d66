"""What a caller may hand over as an image, and how it becomes a request's `Image`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from convlens import wire
from convlens.errors import InvalidArgument, NotFound
from convlens.v1 import image_pb2 as pb

_ALLOWED = "a path, the bytes of a file, a Pillow image, uint8 pixels (H, W, 3) or float pixels (3, H, W)"

ImageLike = str | Path | bytes | PILImage.Image | NDArray[Any] | pb.Image
"""A path, the bytes of a PNG, JPEG or WebP file, a Pillow image, an array of uint8 (H, W, 3) or of float in
[0, 1] (3, H, W), or a ready `convlens.v1.Image`."""

Images = ImageLike | Sequence[ImageLike]
"""One image, a sequence of images, or one array (N, H, W, 3) or (N, 3, H, W)."""

ResizeLike = Literal["keep", "short_side"] | int | tuple[int, int] | pb.Resize
"""How the server brings an image to size: leave it (`"keep"`), scale the short side and cut the model's input
out of the centre (`"short_side"`), fit the longer side into so many pixels (an int; never enlarges), or scale
to exactly (height, width)."""


def to_images(images: Images, resize: ResizeLike | None = None) -> list[pb.Image]:
    """Each image of a batch as the request carries it.

    Without `resize` the server's defaults hold: files and Pillow images are scaled and cut to the model's
    input, arrays keep their size.

    Raises:
        InvalidArgument: not an image; names the position.
        NotFound: no file at the path.
    """
    return [to_image(image, resize, f"images[{i}]") for i, image in enumerate(_each(images))]


def to_image(image: ImageLike, resize: ResizeLike | None = None, field: str = "image") -> pb.Image:
    """One image as the request carries it; `field` is how errors call it."""
    message = pb.Image()
    message.CopyFrom(image if isinstance(image, pb.Image) else _source(image, field))
    if resize is not None:
        message.resize.CopyFrom(to_resize(resize))
    return message


def to_resize(resize: ResizeLike) -> pb.Resize:
    """The message for a `ResizeLike`."""
    match resize:
        case pb.Resize():
            return resize
        case "keep":
            return pb.Resize(keep=pb.Resize.Keep())
        case "short_side":
            return pb.Resize(short_side=pb.Resize.ShortSide())
        case int():
            return pb.Resize(fit=pb.Resize.Fit(max_side=resize))
        case (height, width):
            return pb.Resize(exact=pb.Resize.Exact(height=height, width=width))
    raise InvalidArgument.of("resize", resize, "'keep', 'short_side', a side or (height, width) in pixels")


def as_seen(path: Path, height: int, width: int, resize: ResizeLike | None = None) -> NDArray[np.uint8]:
    """The picture of a file, (height, width, 3), as the network saw it that made a map of that size."""
    image = PILImage.fromarray(wire.decode_image(_read(path, "image")))
    if resize in (None, "short_side"):
        short = round(height * 256 / 224)  # Of the server's default.
        scale = [side * short // min(image.size) for side in image.size]
        left, top = (round((side - cut) / 2) for side, cut in zip(scale, (width, height), strict=True))
        image = image.resize((scale[0], scale[1]), PILImage.Resampling.BILINEAR)
        return np.asarray(image.crop((left, top, left + width, top + height)))
    return np.asarray(image.resize((width, height), PILImage.Resampling.BILINEAR))


def _each(images: Images) -> Iterator[ImageLike]:
    single = isinstance(images, (str, Path, bytes, PILImage.Image, pb.Image))
    if single or (isinstance(images, np.ndarray) and images.ndim != 4):
        images = [images]  # type: ignore[list-item]
    yield from images  # type: ignore[misc]


def _source(image: Any, field: str) -> pb.Image:
    match image:
        case bytes():
            return pb.Image(encoded=image)
        case str() | Path():
            return pb.Image(encoded=_read(Path(image), field))
        case PILImage.Image():
            return pb.Image(encoded=_png(image))
        case np.ndarray() if image.ndim == 3 and image.dtype == np.uint8 and image.shape[-1] == 3:
            return pb.Image(tensor=wire.to_tensor(image))
        case np.ndarray() if image.ndim == 3 and image.dtype.kind == "f" and image.shape[0] == 3:
            return pb.Image(tensor=wire.to_tensor(image.astype(np.float32, copy=False)))
    raise InvalidArgument.of(field, _describe(image), _ALLOWED)


def _read(path: Path, field: str) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{field}: there is no file {path}", field=field) from error
    except OSError as error:
        raise InvalidArgument.of(field, str(path), f"a readable file ({error.strerror})") from error


def _png(image: PILImage.Image) -> bytes:
    """Lossless, so that a Pillow image means the same as its file; quick rather than small."""
    buffer = io.BytesIO()
    PILImage.fromarray(wire.to_pixels(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _describe(image: object) -> str:
    if isinstance(image, np.ndarray):
        return f"{image.dtype} array of shape {image.shape}"
    return type(image).__name__
