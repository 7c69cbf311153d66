"""Small line charts, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
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
