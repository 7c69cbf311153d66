"""GridSample as other operators: the number at each tap times its weight, as PyTorch's `grid_sample`.

Gradients reach the image and, through the weights, the grid: a spatial transformer (Jaderberg et al. 2015,
arXiv:1506.02025) makes it of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import product
from typing import Final

from onnx import TensorProto

from convlens_models.vjp.graph_builder import GraphBuilder, Node

CUBIC: Final = -0.75  # Keys' a, as PyTorch and ONNX have it.
NAMES: Final = {"bilinear": "linear", "bicubic": "cubic"}  # Of opset 16, and of later ones.

Weight = Callable[[GraphBuilder, str], str]
"""(builder, how far behind the first tap, in [0, 1)) -> the weight of a tap."""


def _polynomial(t: GraphBuilder, x: str, *factors: float) -> str:
    """Horner's scheme, the highest power's factor first."""
    value = t.add(t.mul(x, factors[0]), factors[1])
    return reduce(lambda so_far, factor: t.add(t.mul(so_far, x), factor), factors[2:], value)


def _near(t: GraphBuilder, distance: str) -> str:
    """Keys' kernel at a distance of at most 1."""
    return _polynomial(t, distance, CUBIC + 2, -CUBIC - 3, 0, 1)


def _far(t: GraphBuilder, distance: str) -> str:
    """Keys' kernel at a distance of 1 to 2."""
    return _polynomial(t, distance, CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC)


TAPS: Final[dict[str, dict[int, Weight]]] = {
    "nearest": {0: lambda t, f: t.add(t.mul(f, 0.0), 1.0)},
    "linear": {0: lambda t, f: t.sub(1.0, f), 1: lambda t, f: f},
    "cubic": {
        -1: lambda t, f: _far(t, t.add(f, 1.0)),
        0: _near,
        1: lambda t, f: _near(t, t.sub(1.0, f)),
        2: lambda t, f: _far(t, t.sub(2.0, f)),
    },
}
"""{positions behind the first tap: weight} of each mode, along one axis."""


def grid_sample(t: GraphBuilder, node: Node) -> str:
    """The output of a GridSample node of an image (N, C, H, W) and a grid (N, h, w, 2)."""
    x, grid = node.inputs
    mode = node.get("mode", "linear")
    taps = TAPS[NAMES.get(mode, mode)]
    sides = t.op("Gather", t.op("Cast", t.op("Shape", x), to=TensorProto.FLOAT), t.ints([3, 2]))
    places = _places(t, node, grid, sides)
    if len(taps) < 4:
        places = _padded(t, node, places, sides)
    start = t.op("Round" if len(taps) == 1 else "Floor", places)
    behind = t.sub(places, start)
    weights = {tap: weight(t, behind) for tap, weight in taps.items()}
    rows = t.op("Reshape", x, t.ints([0, 0, -1]))
    parts = []
    for tap in product(taps, taps):
        place = t.add(start, t.floats(tap))
        weight = t.mul(*(_part(t, weights[at], axis) for axis, at in enumerate(tap)))
        if node.get("padding_mode", "zeros") == "zeros":
            weight = t.mul(weight, _inside(t, place, sides))
        elif len(taps) == 4:
            place = _padded(t, node, place, sides)
        values = _numbers(t, rows, place, sides)
        parts.append(t.mul(values, t.op("Reshape", weight, t.ints([0, 1, -1]))))
    total = reduce(t.add, parts)
    ends = t.op("Shape", x, start=0, end=2), t.op("Shape", grid, start=1, end=3)
    return t.op("Reshape", total, t.op("Concat", *ends, axis=0))


def _places(t: GraphBuilder, node: Node, grid: str, sides: str) -> str:
    """Where the grid's numbers, (column, row) in [-1, 1], lie in pixels."""
    share = t.mul(t.add(grid, 1.0), 0.5)
    if node.get("align_corners", 0):
        return t.mul(share, t.sub(sides, 1.0))
    return t.sub(t.mul(share, sides), 0.5)


def _padded(t: GraphBuilder, node: Node, places: str, sides: str) -> str:
    """The places moved into the image by the padding mode: onto its border, or mirrored there."""
    padding = node.get("padding_mode", "zeros")
    if padding == "zeros":
        return places
    if padding == "reflection":
        aligned = node.get("align_corners", 0)
        low, span = (0.0, t.sub(sides, 1.0)) if aligned else (-0.5, sides)
        apart = t.op("Abs", t.sub(places, low))
        turns = t.op("Floor", t.div(apart, span))
        rest = t.sub(apart, t.mul(turns, span))
        odd = t.op(
            "Cast", t.op("Mod", t.op("Cast", turns, to=TensorProto.INT64), t.ints(2)), to=TensorProto.BOOL
        )
        places = t.add(t.op("Where", odd, t.sub(span, rest), rest), low)
    return _clipped(t, places, sides)


def _inside(t: GraphBuilder, places: str, sides: str) -> str:
    """1 where a place lies in the image, else 0, (N, h, w, 1)."""
    inside = t.op("Cast", t.op("Equal", places, _clipped(t, places, sides)), to=TensorProto.FLOAT)
    return t.mul(_part(t, inside, 0), _part(t, inside, 1))


def _numbers(t: GraphBuilder, rows: str, places: str, sides: str) -> str:
    """The numbers (N, C, h * w) at the places, of the nearest pixel where there is none."""
    kept = _clipped(t, places, sides)
    column, row = (_part(t, kept, axis) for axis in range(2))
    index = t.add(t.mul(row, t.op("Gather", sides, t.ints([0]))), column)
    flat = t.op("Reshape", t.op("Cast", index, to=TensorProto.INT64), t.ints([0, 1, -1]))
    count = t.op("Concat", t.ints([1]), t.op("Shape", rows, start=1, end=2), t.ints([1]), axis=0)
    return t.op("GatherElements", rows, t.op("Expand", flat, count), axis=2)


def _clipped(t: GraphBuilder, places: str, sides: str) -> str:
    return t.op("Max", t.op("Min", places, t.sub(sides, 1.0)), 0.0)


def _part(t: GraphBuilder, pairs: str, axis: int) -> str:
    """The columns (0) or the rows (1) of (N, h, w, 2)."""
    return t.op("Gather", pairs, t.ints([axis]), axis=3)
