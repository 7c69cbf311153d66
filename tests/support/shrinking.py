"""Makes a list that fails short: delta debugging (Zeller and Hildebrandt, 2002, "Simplifying and Isolating
Failure-Inducing Input")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shortest(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """Some of the items, in their order, that still fail, and none of which can be left out alone.

    Args:
        items: fail as a whole, which is not asked again.
        fails: whether some of them fail; asked for the same ones once.
    """
    asked: dict[tuple[int, ...], bool] = {}

    def fail(numbers: list[int]) -> bool:
        key = tuple(numbers)
        if key not in asked:
            asked[key] = fails([items[number] for number in numbers])
        return asked[key]

    left, parts = list(range(len(items))), 2
    while len(left) > 1:
        size = -(-len(left) // parts)
        pieces = [left[start : start + size] for start in range(0, len(left), size)]
        others = ([number for number in left if number not in piece] for piece in pieces)
        smaller = next((rest for rest in others if rest and fail(rest)), None)
        if smaller is not None:
            left, parts = smaller, max(parts - 1, 2)
        elif parts >= len(left):
            break
        else:
            parts = min(2 * parts, len(left))
    return [items[number] for number in left]
