"""What a caller may hand over as an image, and how it becomes a request's `Image`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from convlens import wire
from convlens.errors import InvalidArgument, NotFound
from convlens.v1 import image_pb2 as pb
from convlens_client import pictures

ImageLike = str | Path | bytes | PILImage.Image | NDArray[Any] | pb.Image
"""A path or the bytes of a file (PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF; HEIC with pillow-heif), a Pillow
image, an array or a tensor of PyTorch, or a ready `convlens.v1.Image`.

Arrays are grey (H, W), (H, W, C) or (C, H, W), with 1, 3 or 4 channels: uint8, uint16 and bool as far as they
go, or floats in [0, 1]. Of two axes that may be the channels, it is the last for integers and the first for
floats. Transparency is laid over white. Of a file of several frames, it is the first; see `read_image`."""

Images = ImageLike | Sequence[ImageLike]
"""One image, a sequence of images, or one array of four axes."""

ResizeLike = Literal["keep", "short_side"] | int | tuple[int, int] | pb.Resize
"""How the server brings an image to size: leave it (`"keep"`), scale the short side and cut the model's input
out of the centre (`"short_side"`), fit the longer side into so many pixels (an int; never enlarges), or scale
to exactly (height, width)."""


LARGEST_SIDE: Final = 4096
"""Pixels of a side that the service takes at most. Pictures that a technique brings to size itself, such as a
style, are scaled down to it instead of being refused."""


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


def read_image(image: str | Path | bytes, *, frame: int = 0, resize: ResizeLike | None = None) -> pb.Image:
    """One frame of a file, from 0, for methods that take an image: `read_image("loop.gif", frame=3)`."""
    data, name = (image, "") if isinstance(image, bytes) else (_read(Path(image), "image"), Path(image).name)
    return to_image(pb.Image(encoded=pictures.as_file(data, "image", frame), name=name), resize)


def as_encoded(path: Path, field: str) -> bytes:
    """A file as the server takes it: as it is, or as a PNG."""
    return pictures.as_file(_read(path, field), field)


def as_it_may_be(path: Path, field: str) -> bytes:
    """The same, but where it cannot be read here it stays as it is, for the server to refuse it alone."""
    data = _read(path, field)
    try:
        return pictures.as_file(data, field)
    except InvalidArgument:
        return data


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


def to_side(size: int | None, *, shorter: bool = False, enlarge: bool = False) -> pb.Resize | None:
    """The resize that gives the longer, or the shorter, side so many pixels; None where no `size` is said.

    Smaller pictures are left as they are, unless they are to be enlarged.

    Raises:
        InvalidArgument: a switch without a size that it is about.
    """
    if size is not None:
        return pb.Resize(fit=pb.Resize.Fit(max_side=size, shorter=shorter, enlarge=enlarge))
    for field, given in (("shorter_side", shorter), ("enlarge", enlarge)):
        if given:
            raise InvalidArgument.of(field, given, "given with a size")
    return None


def as_seen(file: ImageLike, height: int, width: int, resize: ResizeLike | None = None) -> NDArray[np.uint8]:
    """The picture of a file, (height, width, 3), as the network saw it that made a map of that size."""
    image = PILImage.fromarray(wire.decode_image(to_image(file).encoded))
    if resize in (None, "short_side"):
        short = round(height * 256 / 224)  # Of the server's default.
        scale = [side * short // min(image.size) for side in image.size]
        left, top = (round((side - cut) / 2) for side, cut in zip(scale, (width, height), strict=True))
        image = image.resize((scale[0], scale[1]), PILImage.Resampling.BILINEAR)
        return np.asarray(image.crop((left, top, left + width, top + height)))
    return np.asarray(image.resize((width, height), PILImage.Resampling.BILINEAR))


def _each(images: Images) -> Iterator[ImageLike]:
    single = isinstance(images, (str, Path, bytes, PILImage.Image, pb.Image))
    if not single and not isinstance(images, (list, tuple)):
        array = pictures.as_array(images)
        single, images = array is not None and array.ndim != 4, images if array is None else array
    yield from [images] if single else images  # type: ignore[misc]


def _source(image: Any, field: str) -> pb.Image:
    match image:
        case bytes():
            return pb.Image(encoded=pictures.as_file(image, field))
        case str() | Path():
            return pb.Image(encoded=as_encoded(Path(image), field), name=Path(image).name)
        case PILImage.Image():
            return pb.Image(encoded=pictures.as_png(image, field))
    array = pictures.as_array(image)
    if array is None:
        raise InvalidArgument.of(field, type(image).__name__, pictures.ALLOWED)
    return pictures.as_tensor(array, field)


def _read(path: Path, field: str) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{field}: there is no file {path}", field=field) from error
    except OSError as error:
        raise InvalidArgument.of(field, str(path), f"a readable file ({error.strerror})") from error
