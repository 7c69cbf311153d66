"""Rules of the reductions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from .fields import EVERYTHING, Field
from .graph_builder import GraphBuilder, Node, known_sizes
from .operator import Operator


def reduce_sum(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g, repeated over what was summed."""
    return [_repeat(t, node, cotangents[0])]


def reduce_mean(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g over the number of values in each mean, repeated."""
    return [_repeat(t, node, t.mul(cotangents[0], share(t, node, axes_of(t, node))))]


def _repeat(t: GraphBuilder, node: Node, g: str) -> str:
    x = node.inputs[0]
    axes = axes_of(t, node)
    if not node.get("keepdims", 1) and axes:
        g = t.op("Unsqueeze", g, t.ints(axes))
    return t.op("Expand", g, t.sizes(x))


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


WITHOUT_RULE: Final = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Min", "Prod", "SumSquare")
OPERATORS: Final = {
    "ReduceMean": Operator(reduce_mean, sees),
    "ReduceSum": Operator(reduce_sum, sees),
    **{f"Reduce{kind}": Operator(sees=sees) for kind in WITHOUT_RULE},
}
