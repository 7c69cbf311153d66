"""Contact sheets: many small pictures with their captions on one."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from convlens_client.rendering import Picture

GAP: Final = 6
LINE: Final = 14
FONT: Final = 11


class Tile(NamedTuple):
    """A picture, its caption, and whether a line sets it apart from what follows in its row."""

    caption: str
    picture: Picture
    apart: bool = False


def decoded(file: bytes) -> Picture:
    """The pixels of a PNG or JPEG."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def contact_sheet(rows: Sequence[Sequence[Tile]], side: int = 112) -> Picture:
    """Rows of pictures, each scaled to fit a square of `side` pixels, on white, captions below."""
    across = max(len(row) for row in rows)
    width, height = across * (side + GAP) + 2 * GAP, len(rows) * (side + LINE + GAP) + GAP
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=FONT)
    for down, row in enumerate(rows):
        top, left = GAP + down * (side + LINE + GAP), GAP
        for tile in row:
            picture = fitted(tile.picture, side)
            canvas.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
            draw.text((left, top + side), _shortened(tile.caption, side, font), fill="black", font=font)
            left += side + GAP
            if tile.apart:
                draw.line([(left, top), (left, top + side)], fill="black", width=2)
                left += GAP
    return np.asarray(canvas)


def scatter(points: NDArray[Any], pictures: Iterable[Picture], side: int = 1600, tile: int = 48) -> Picture:
    """Small pictures at their points (N, 2) in [0, 1], the second axis upwards."""
    canvas = Image.new("RGB", (side, side), "white")
    for (x, y), picture in zip(points, pictures, strict=True):
        small = fitted(picture, tile)
        canvas.paste(small, (round(x * (side - tile)), round((1 - y) * (side - tile))))
    return np.asarray(canvas)


def fitted(picture: Picture, side: int) -> Image.Image:
    """The picture, its longer side scaled to `side` pixels; small ones keep sharp pixels."""
    image = Image.fromarray(picture)
    ratio = side / max(image.size)
    width, height = (max(1, round(extent * ratio)) for extent in image.size)
    how = Image.Resampling.NEAREST if ratio >= 4 else Image.Resampling.LANCZOS
    return image.resize((width, height), how)


def _shortened(text: str, width: int, font: Any) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
