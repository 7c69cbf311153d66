"""The sizes at which techniques look at pictures, on which what is run and what it is to cost agree."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product
from typing import Final

from convlens_workers.jobs.pictures import Size

MARGIN: Final = 32
"""Pixels around the picture that the network sees too: zero padding is far away then, and seams are seen."""


def scales(size: Size, count: int, ratio: float, smallest: float) -> list[Size]:
    """Up to `count` sizes, each `ratio` times the one before, up to `size`; none below `smallest`."""
    factors = [ratio**-n for n in reversed(range(1, count))]
    sizes = [(round(size[0] * factor), round(size[1] * factor)) for factor in factors]
    return [each for each in sizes if min(each) >= smallest] + [size]


def scaled_size(size: Size, ratio: float, least: int) -> Size:
    """Both sides times `ratio`, each of at least `least` pixels."""
    height, width = (max(least, round(side * ratio)) for side in size)
    return height, width


def margin(size: Size) -> int:
    """Pixels by which a picture is continued beyond each edge: as many as it can be mirrored by."""
    return min(MARGIN, size[0] - 1, size[1] - 1)


def framed_size(size: Size) -> Size:
    """What the network sees of a picture that is continued beyond its edges."""
    around = 2 * margin(size)
    return size[0] + around, size[1] + around


def cut(length: int, tile: int) -> list[slice]:
    """The fewest equal parts, within a pixel, of at most `tile` pixels; the whole where `tile` is 0."""
    count = -(-length // tile) if tile else 1
    edges = [length * i // count for i in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]


def tiles(size: Size, tile: int) -> list[tuple[Size, int]]:
    """The sizes of a picture's tiles of at most `tile` pixels a side, and how many there are of each."""
    sides = [[part.stop - part.start for part in cut(length, tile)] for length in size]
    return list(Counter(product(*sides)).items())
