"""Rules of the reductions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from onnx import TensorProto

from .elementary import Slope
from .fields import EVERYTHING, Field
from .graph_builder import GraphBuilder, Node, known_sizes
from .operator import Operator

SMALLEST: Final = 1.2e-38
"""The smallest normal float32."""


def reduce_sum(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g, repeated over what was summed."""
    return [_repeat(t, node, cotangents[0])]


def reduce_mean(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g over the number of values in each mean, repeated."""
    return [_repeat(t, node, t.mul(cotangents[0], share(t, node, axes_of(t, node))))]


def reduce_by_slope(slope: Slope) -> Operator:
    """The row of a reduction whose gradient is g times a slope of x and y, both of the shape of x."""

    def rule(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
        y, g = (lifted(t, node, value) for value in (node.outputs[0], cotangents[0]))
        return [t.mul(slope(t, node, node.inputs[0], y), g)]

    return Operator(rule, sees)


def length(t: GraphBuilder, node: Node, x: str, y: str) -> str:
    """x / y, and 0 at the origin, as PyTorch has it."""
    return t.div(x, t.op("Max", y, SMALLEST))


def product(t: GraphBuilder, node: Node, x: str, y: str) -> str:
    """The product of all others: where one of them is 0 that is only left at this one, of two nowhere."""
    zero = t.op("Cast", t.op("Equal", x, 0.0), to=TensorProto.FLOAT)
    filled = t.add(x, zero)
    zeros = over_axes(t, node, "ReduceSum", zero)
    alone = t.op("Cast", t.op("Equal", zeros, zero), to=TensorProto.FLOAT)
    return t.mul(alone, t.div(over_axes(t, node, "ReduceProd", filled), filled))


def over_axes(t: GraphBuilder, node: Node, kind: str, value: str) -> str:
    """A reduction of a value of the shape of x over the axes of the node, which are kept."""
    axes = axes_of(t, node)
    if not axes:
        return value
    if not node.get("axes") and not node.input(1):
        return t.op(kind, value, keepdims=1)  # All of them.
    if node.get("axes") and kind != "ReduceSum":  # Operators before opset 18.
        return t.op(kind, value, axes=axes, keepdims=1)
    return t.op(kind, value, t.ints(axes), keepdims=1)


def lifted(t: GraphBuilder, node: Node, value: str) -> str:
    """A value of the shape of y with the axes that were reduced, of one position each."""
    axes = axes_of(t, node)
    return t.op("Unsqueeze", value, t.ints(axes)) if axes and not node.get("keepdims", 1) else value


def _repeat(t: GraphBuilder, node: Node, g: str) -> str:
    return t.op("Expand", lifted(t, node, g), t.sizes(node.inputs[0]))


def mean(t: GraphBuilder, value: str, axes: Sequence[int]) -> str:
    """The mean over the axes, which are kept, of a value."""
    total = t.op("ReduceSum", value, t.ints(axes), keepdims=1)
    return t.mul(total, t.div(*(t.op("CastLike", t.op("Size", of), 0.0) for of in (total, value))))


def share(t: GraphBuilder, node: Node, axes: Iterable[int]) -> str:
    """One over the number of values along the axes of x, which are reduced to one."""
    x, y = node.inputs[0], node.outputs[0]
    known = known_sizes(t.shape(x)[axis] for axis in axes)
    if known is not None:
        return t.floats(1.0 / math.prod(known))
    return t.div(*(t.op("CastLike", t.op("Size", value), 0.0) for value in (y, x)))


def axes_of(t: GraphBuilder, node: Node) -> list[int]:
    """The axes that are reduced, an attribute or a second input; all of them if none are given."""
    rank = len(t.shape(node.inputs[0]))
    axes = node.get("axes")
    if node.input(1):
        stated = t.constant_of(node.input(1))
        if stated is None:
            raise node.refuse("its axes are not constant")
        axes = stated.tolist()
    if not axes:
        return [] if node.get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """All along the axes that are reduced; along the others that position alone."""
    if node.input(1) and t.constant_of(node.input(1)) is None:
        return EVERYTHING
    axes, axis = axes_of(t, node), len(t.shape(node.inputs[0])) + field.axis
    behind = 0 if node.get("keepdims", 1) else sum(reduced > axis for reduced in axes)
    return EVERYTHING if axis in axes else field._replace(axis=field.axis + behind)


SLOPES: Final[dict[str, Slope]] = {
    "ReduceL1": lambda t, node, x, y: t.op("Sign", x),
    "ReduceL2": length,
    "ReduceLogSum": lambda t, node, x, y: t.op("Expand", t.op("Exp", t.op("Neg", y)), t.sizes(x)),
    "ReduceLogSumExp": lambda t, node, x, y: t.op("Exp", t.sub(x, y)),
    "ReduceProd": product,
    "ReduceSumSquare": lambda t, node, x, y: t.mul(x, 2.0),
}
OPERATORS: Final = {
    "ReduceMean": Operator(reduce_mean, sees),
    "ReduceSum": Operator(reduce_sum, sees),
    **{kind: reduce_by_slope(slope) for kind, slope in SLOPES.items()},
}
