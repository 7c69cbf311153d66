"""The rule of Resize: it is linear and works on one axis after the other, so the operator itself is asked.

Run on the unit vectors of an axis it gives the weight of every position in every new one, whatever its mode,
coordinates and antialiasing; gradients are multiplied by them. ONNX Runtime computes them once where the
sizes are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

from .fields import EVERYTHING, Field
from .graph_builder import GraphBuilder, Node
from .operator import Operator

REACH: Final = {"nearest": 1, "linear": 1, "cubic": 2}
"""Positions to either side of where a new one lies that may count."""
LIKE_THE_SIZE: Final = ("half_pixel", "pytorch_half_pixel", "asymmetric")
"""Coordinates whose distance is one over the scale."""


def resize(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g times the weights, along each axis whose size changes."""
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("keep_aspect_ratio_policy has no rule, only 'stretch' has one")
    rank, g = len(t.shape(node.inputs[0])), cotangents[0]
    axes = [axis % rank for axis in node.get("axes") or range(rank)]
    for place, axis in enumerate(axes):
        if _changes(t, node, place, axis):
            g = _along(t, g, _weights(t, node, rank, place, axis), axis, rank)
    return [g, "", "", ""][: len(node.inputs)]


def _changes(t: GraphBuilder, node: Node, place: int, axis: int) -> bool:
    before, after = t.shape(node.inputs[0])[axis], t.shape(node.outputs[0])[axis]
    crops = node.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if before is not None and before == after:
        return crops and axis > 1
    scales = t.constant_of(node.input(2)) if node.input(2) else None
    return axis > 1 if scales is None else crops or bool(scales[place] != 1)


def _weights(t: GraphBuilder, node: Node, rank: int, place: int, axis: int) -> str:
    """[positions of x, positions of y]: the axis resized of as many images as it has unit vectors."""
    length = t.op("Gather", t.sizes(node.inputs[0]), t.ints([axis]))
    unit = t.op("EyeLike", t.op("Expand", 0.0, t.op("Concat", length, length, axis=0)))
    sides: list[str] = [length] + [t.ints([1])] * (rank - 1)
    sides[axis] = length
    images = t.op("Reshape", unit, t.op("Concat", *sides, axis=0))
    count = len(node.get("axes") or range(rank))
    kept: dict[str, Any] = {k: v for k, v in node.attributes.items() if k != "axes"}

    def stated(values: str, first: str, others: str, at: int = place) -> str:
        parts = [first] + [others] * (rank - 1)
        parts[axis] = t.op("Gather", values, t.ints([at]))
        return t.op("Concat", *parts, axis=0)

    roi = scales = sizes = ""
    zero, one = t.floats([0.0]), t.floats([1.0])
    if kept.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        kept["extrapolation_value"] = 0.0
        begins = stated(node.inputs[1], zero, zero)
        roi = t.op("Concat", begins, stated(node.inputs[1], one, one, place + count), axis=0)
    if node.input(2):
        scales = stated(node.input(2), one, one)
    else:
        sizes = stated(node.input(3), length, t.ints([1]))
    resized = t.op("Resize", images, roi, scales, sizes, **kept)
    return t.op("Reshape", resized, t.op("Concat", length, t.ints([-1]), axis=0))


def _along(t: GraphBuilder, g: str, weights: str, axis: int, rank: int) -> str:
    """g with its axis multiplied by the weights, from the left or, of the last axis, from the right."""
    if axis == rank - 1:
        return t.op("MatMul", g, t.op("Transpose", weights, perm=[1, 0]))
    order = [i for i in range(rank) if i != axis]
    order.insert(rank - 2, axis)
    back = [order.index(i) for i in range(rank)]
    turned = order != back or order != sorted(order)
    product = t.op("MatMul", weights, t.op("Transpose", g, perm=order) if turned else g)
    return t.op("Transpose", product, perm=back) if turned else product


def sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """Those around the place of a position in x, where scales are given; else everything."""
    mode, way = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    scales = t.constant_of(node.input(2)) if node.input(2) else None
    rank = len(t.shape(node.inputs[0]))
    axes = [axis % rank for axis in node.get("axes") or range(rank)]
    if index or scales is None or len(scales) != len(axes) or way not in LIKE_THE_SIZE:
        return EVERYTHING
    scale = Fraction(float(dict(zip(axes, scales, strict=True)).get(rank + field.axis, 1.0)))
    if scale == 1:
        return field
    if scale.denominator > 1 and (1 / scale).denominator > 1:  # Sizes are rounded down, and may shift.
        return EVERYTHING
    reach = REACH[mode] * (max(Fraction(1), 1 / scale) if node.get("antialias", 0) else 1)
    start = (1 / scale - 1) / 2  # Of pixels' centres; 0 where first positions lie on each other.
    return field.seen_through(min(start, Fraction(0)) - reach, max(start, Fraction(0)) + reach, 1 / scale)


OPERATORS: Final = {"Resize": Operator(resize, sees)}
