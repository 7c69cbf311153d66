"""Rules of the reductions."""

from __future__ import annotations

from collections.abc import Sequence

from .graph_builder import GraphBuilder, Node


def reduce_sum(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """G, repeated over what was summed."""
    return [_spread(t, node, cotangents[0])]


def reduce_mean(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """G over the number of values in each mean, repeated."""
    return [_spread(t, node, t.mul(cotangents[0], _share(t, node)))]


def _spread(t: GraphBuilder, node: Node, g: str) -> str:
    x = node.inputs[0]
    axes = _axes(t, node)
    if not node.get("keepdims", 1) and axes:
        g = t.op("Unsqueeze", g, t.ints(axes))
    return t.op("Expand", g, t.sizes(x))


def _share(t: GraphBuilder, node: Node) -> str:
    """One over the number of values that went into each result."""
    x, y = node.inputs[0], node.outputs[0]
    sizes = [t.shape(x)[axis] for axis in _axes(t, node)]
    count = 1
    for size in sizes:
        if not isinstance(size, int):
            to_float = [t.op("CastLike", t.op("Size", value), t.floats(0.0)) for value in (y, x)]
            return t.op("Div", *to_float)
        count *= size
    return t.floats(1.0 / count)


def _axes(t: GraphBuilder, node: Node) -> list[int]:
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
