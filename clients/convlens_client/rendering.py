"""Tensors to pictures: arrays in, uint8 pictures (H, W, 3) out.

Nothing here is needed to compute anything: the tensors that the server sends are the truth, these pictures
are how a person looks at them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from convlens.errors import InvalidArgument

Picture = NDArray[np.uint8]
Scale = Literal["channel", "layer"]

GAP: Final = 1
MAX_SIDE: Final = 4096
GLOW: Final = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Colours of heat, as bright as they are warm, so that they can be read in grey as well."""
SUFFIXES: Final = (".npy", ".png", ".jpg", ".jpeg", ".webp")


def photo(pixels: NDArray[Any]) -> Picture:
    """Pixels (3, H, W) in [0, 1], rounded to 8 bits."""
    picture: Picture = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return picture


def signed(attribution: NDArray[Any], percentile: float = 99.5) -> Picture:
    """A signed map (3, H, W) or (1, H, W): nothing is mid-grey, the percentile of |values| full colour.

    The scale is a percentile because a few pixels often exceed all others many times.
    """
    scaled = 0.5 + 0.5 * attribution / _peak(attribution, percentile)
    return photo(np.broadcast_to(scaled, (3, *scaled.shape[1:])))


def magnitude(attribution: NDArray[Any], percentile: float = 99.5) -> Picture:
    """The largest |channel| of a map (3, H, W), black to white (Simonyan et al. 2014, section 3.1)."""
    strength = np.abs(attribution).max(axis=0)
    return photo(np.broadcast_to(strength / _peak(strength, percentile), (3, *strength.shape)))


def glow(attribution: NDArray[Any], background: Picture) -> Picture:
    """A map (1, H, W), or the largest |channel| of (3, H, W), as colours over a photo (H, W, 3) in grey.

    From dark at the least value to bright yellow at the greatest; maps of one colour only are dark.
    """
    values = attribution[0] if len(attribution) == 1 else np.abs(attribution).max(axis=0)
    warmth = _unit(values, flat=0.0)
    stops = np.linspace(0, 1, len(GLOW))
    colours = [np.interp(warmth, stops, channel) for channel in zip(*GLOW, strict=True)]
    grey = background.mean(axis=-1) / 255
    return photo(0.6 * np.stack(colours) / 255 + 0.4 * grey)


def signs(gradient_sign: NDArray[Any]) -> Picture:
    """Signs (3, H, W): -1 is black, 0 mid-grey, 1 white, in each colour."""
    return photo(0.5 + 0.5 * gradient_sign)


def kernels(weights: NDArray[Any], tile: int = 32) -> Picture:
    """Filters (out, in, kh, kw) in a grid with a one-pixel gap, each scaled on its own to [0, 1].

    Filters of three channels are shown in colour, at least `tile` pixels large. Deeper ones are shown as one
    grey tile a channel, a row a filter; they are hard to read, as their channels have no colour. Filters of
    one pixel and linear layers (out, in) are one grey tile. What would exceed 4096 pixels is left out.
    """
    if math.prod(weights.shape[2:]) == 1:
        matrix = weights.reshape(weights.shape[:2])[:MAX_SIDE, :MAX_SIDE]
        return _readable(_grey(_unit(matrix)))
    if weights.shape[1] == 3:
        return grid([enlarge(photo(_unit(kernel)), tile) for kernel in weights])
    height, width = weights.shape[2:]
    shown = weights[: MAX_SIDE // (height + GAP), : MAX_SIDE // (width + GAP)]
    tiles = np.pad(_unit(shown, (2, 3)), ((0, 0), (0, 0), (0, GAP), (0, GAP)), constant_values=0.5)
    rows = tiles.transpose(0, 2, 1, 3).reshape(tiles.shape[0] * tiles.shape[2], -1)
    return _readable(_grey(rows[:-GAP, :-GAP]))


def feature_maps(value: NDArray[Any], scale: Scale = "channel", tile: int = 32) -> Picture:
    """One grey tile a channel of (C, H, W), black to white over each channel's range or the layer's.

    A silent channel is black.

    A layer without spatial axes, (C), becomes bars, one a channel.
    """
    if value.ndim == 1:
        return _bars(value)
    scaled = _unit(value, (1, 2) if scale == "channel" else None, flat=0.0)
    return grid([enlarge(_grey(channel), tile) for channel in scaled])


def grid(tiles: Sequence[Picture]) -> Picture:
    """Tiles of one size in rows, nearly square as a whole, with a one-pixel gap."""
    height, width = tiles[0].shape[:2]
    across = math.ceil(math.sqrt(len(tiles) * height / width))
    down = math.ceil(len(tiles) / across)
    canvas = np.full((down * (height + GAP) - GAP, across * (width + GAP) - GAP, 3), 128, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // across * (height + GAP), i % across * (width + GAP)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def same_size(pictures: Sequence[Picture]) -> list[Picture]:
    """Pictures with white to the right and below, so that all are as large as the largest."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    return [
        np.pad(p, ((0, height - p.shape[0]), (0, width - p.shape[1]), (0, 0)), constant_values=255)
        for p in pictures
    ]


def two_rows(upper: Sequence[Picture], lower: Sequence[Picture], side: int = 128) -> Picture:
    """Pairs of pictures, one above the other, each within a square of `side` pixels on grey.

    The picture of Springenberg et al. (2015), figure 3: what excites a unit, above the crops of the photos.
    """
    rows = [
        np.concatenate([_padded(_within(tile, side)) for tile in tiles], axis=1) for tiles in (upper, lower)
    ]
    return np.concatenate(rows)


def highlighted(pixels: NDArray[Any], map_: NDArray[Any]) -> Picture:
    """An image (3, H, W), dark but where a map (H, W) from 0 up is large."""
    peak = float(map_.max()) or 1.0
    return photo(pixels * (0.2 + 0.8 * map_ / peak))


def heat(map_: NDArray[Any], threshold: float, side: int = 288) -> Picture:
    """A map (H, W) from 0 up in grey, red where it exceeds `threshold` x its maximum."""
    scaled = map_ / (float(map_.max()) or 1.0)
    red = np.where(scaled > threshold, 1.0, scaled)
    return enlarge(photo(np.stack([red, scaled * 0.8, scaled * 0.8])), side)


def enlarge(picture: Picture, side: int) -> Picture:
    """The picture with whole, sharp pixels, enlarged so that its shorter side has at least `side` pixels."""
    factor = math.ceil(side / min(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _readable(picture: Picture) -> Picture:
    """The picture, enlarged as far as that keeps it within 512 pixels."""
    return enlarge(picture, max(1, 512 // max(picture.shape[:2])) * min(picture.shape[:2]))


def sheet(pictures: Sequence[tuple[str, Picture]], height: int = 288) -> Picture:
    """Pictures side by side at one height, on white, each with its caption (lines) below."""
    font = ImageFont.load_default(size=14)
    scaled = [(caption, _to_height(picture, height)) for caption, picture in pictures]
    widths = [max(image.width, *_extents(caption, font)[:1]) for caption, image in scaled]
    foot = max(_extents(caption, font)[1] for caption, _ in scaled) + 12
    margin = 10
    canvas = Image.new("RGB", (sum(widths) + margin * (len(widths) + 1), height + foot + margin), "white")
    draw, left = ImageDraw.Draw(canvas), margin
    for (caption, image), width in zip(scaled, widths, strict=True):
        canvas.paste(image, (left + (width - image.width) // 2, margin))
        draw.multiline_text((left, height + margin + 4), caption, fill="black", font=font)
        left += width + margin
    return np.asarray(canvas)


def save(path: Path, tensor: NDArray[Any], picture: Picture) -> None:
    """Writes `tensor` where the path ends in .npy, else `picture` as PNG, JPEG or WebP.

    Raises:
        InvalidArgument: another ending, or a folder that cannot be written to.
    """
    check_path(path)
    try:
        if path.suffix.lower() == ".npy":
            np.save(path, tensor)
        else:
            Image.fromarray(picture).save(path, quality=92)
    except OSError as error:
        raise InvalidArgument.of("out", str(path), f"writable ({error.strerror})") from error


def check_path(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raises InvalidArgument when `save`, or what writes these other files, would not write to this path."""
    if path.suffix.lower() not in suffixes:
        raise InvalidArgument.of("out", str(path), f"a file ending in {', '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise InvalidArgument.of("out", str(path), "in a folder that exists")


def _peak(values: NDArray[Any], percentile: float) -> float:
    peak = float(np.percentile(np.abs(values), percentile)) or float(np.abs(values).max())
    return peak or 1.0


def _unit(values: NDArray[Any], axes: tuple[int, ...] | None = None, flat: float = 0.5) -> NDArray[Any]:
    """Values moved and scaled to [0, 1] over `axes` (all by default); `flat` where they are all equal."""
    low, span = values.min(axis=axes, keepdims=True), np.ptp(values, axis=axes, keepdims=True)
    scaled: NDArray[Any] = np.where(span > 0, (values - low) / np.where(span > 0, span, 1), flat)
    return scaled


def _grey(values: NDArray[Any]) -> Picture:
    """Values (H, W) in [0, 1] as a grey picture (H, W, 3)."""
    return photo(np.broadcast_to(values, (3, *values.shape)))


def _bars(values: NDArray[Any], height: int = 120) -> Picture:
    """One bar a channel, upwards from the smaller of 0 and the least value."""
    low = min(0.0, float(values.min()))
    lengths = np.rint((values - low) / (float(values.max()) - low or 1.0) * height)
    filled = np.arange(height)[::-1, None] < lengths[None, :]
    return _grey(np.where(filled, 0.15, 1.0)).repeat(max(1, 512 // values.size), axis=1)


def _to_height(picture: Picture, height: int) -> Image.Image:
    image = Image.fromarray(picture)
    width = max(1, round(image.width * height / image.height))
    small = image.height * 2 <= height
    return image.resize((width, height), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def _within(picture: Picture, side: int) -> Picture:
    """The picture, scaled to fit a square of `side` pixels, in its middle on grey."""
    longest = max(picture.shape[:2])
    height, width = (max(1, round(extent * side / longest)) for extent in picture.shape[:2])
    scaled = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (side, side), (128, 128, 128))
    canvas.paste(scaled, ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas)


def _padded(picture: Picture) -> Picture:
    return np.pad(picture, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)


def _extents(caption: str, font: Any) -> tuple[int, int]:
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), caption, font=font)
    return math.ceil(box[2]), math.ceil(box[3])
