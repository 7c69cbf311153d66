"""Small charts, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from convlens_client.rendering import Picture

COLOURS: Final = ("#b2182b", "#2166ac", "#4d9221", "#762a83")
LEFT, TOP, RIGHT, BOTTOM = 56, 34, 16, 48


def curves(
    series: Mapping[str, Sequence[float]], ticks: Sequence[str], axis: str, size: tuple[int, int] = (640, 360)
) -> Picture:
    """Shares in [0, 1] over evenly spaced, named positions: one line a series.

    Args:
        ticks: name of each position.
        axis: what the positions are.
        size: width and height in pixels.
    """
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    width, height = size[0] - LEFT - RIGHT, size[1] - TOP - BOTTOM
    across = np.linspace(LEFT, LEFT + width, len(ticks)) if len(ticks) > 1 else np.array([LEFT + width / 2])
    for percent in range(0, 101, 25):
        y = TOP + height * (1 - percent / 100)
        draw.line((LEFT, y, LEFT + width, y), fill="#dddddd")
        draw.text((LEFT - 6, y), f"{percent}%", fill="black", font=font, anchor="rm")
    for x, tick in zip(across, ticks, strict=True):
        draw.text((x, TOP + height + 6), tick, fill="black", font=font, anchor="mt")
    draw.text((LEFT + width / 2, size[1] - 6), axis, fill="black", font=font, anchor="mb")
    left = LEFT
    for (name, shares), colour in zip(series.items(), COLOURS, strict=False):
        places = [(x, TOP + height * (1 - share)) for x, share in zip(across, shares, strict=True)]
        draw.line(places, fill=colour, width=2)
        for x, y in places:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        draw.text((left, 8), name, fill=colour, font=font)
        left += int(draw.textlength(name, font=font)) + 24
    return np.asarray(canvas)


def matrix(tables: Mapping[str, NDArray[Any]], names: Sequence[str], rows: str, columns: str) -> Picture:
    """Square tables of shares in [0, 1] beside each other, darker for more; what is not a number stays blank.

    Args:
        tables: by title.
        names: of the rows, and of the columns.
        rows, columns: what they are.
    """
    font = ImageFont.load_default(size=13)
    left = 24 + round(max(font.getlength(name) for name in names))
    cell = max(64, left - 8)
    side = cell * len(names)
    canvas = Image.new("RGB", ((left + side + RIGHT) * len(tables), 2 * TOP + side + BOTTOM), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (title, table) in enumerate(tables.items()):
        x0, y0 = place * (left + side + RIGHT) + left, 2 * TOP
        draw.text((x0 + side / 2, 8), title, fill="black", font=font, anchor="mt")
        draw.text((x0 + side / 2, y0 + side + BOTTOM - 6), columns, fill="black", font=font, anchor="mb")
        draw.text((x0 - left + 4, y0 - 8), rows, fill="black", font=font, anchor="lb")
        for i, name in enumerate(names):
            draw.text((x0 - 8, y0 + (i + 0.5) * cell), name, fill="black", font=font, anchor="rm")
            draw.text((x0 + (i + 0.5) * cell, y0 + side + 6), name, fill="black", font=font, anchor="mt")
            for j, share in enumerate(table[i]):
                if not math.isnan(share):
                    _cell(draw, (x0 + j * cell, y0 + i * cell), cell, float(share), font)
    return np.asarray(canvas)


def _cell(draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, share: float, font: Any) -> None:
    """A share as a square from white to red, and in figures."""
    red, green, blue = (round(255 + share * (end - 255)) for end in (178, 24, 43))
    x, y = corner
    draw.rectangle((x, y, x + side - 1, y + side - 1), fill=(red, green, blue), outline="white")
    ink = "white" if share > 0.5 else "black"
    draw.text((x + side / 2, y + side / 2), f"{share:.0%}", fill=ink, font=font, anchor="mm")
