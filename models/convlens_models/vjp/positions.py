"""Rules of the operators that take numbers from places, or put them there.

What only moves numbers, run on the positions 0, 1, 2, ... of x, says which it took.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from .fields import EVERYTHING, Field, across_axis, pointwise
from .graph_builder import GraphBuilder, Node
from .operator import Operator


def pick(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Every number of g to the position whose number it was, added up there."""
    x = node.inputs[0]
    count = t.op("Size", x)
    positions = t.like(t.op("Range", t.ints(0), count, t.ints(1)), x)
    taken = t.op(node.kind, positions, *node.inputs[1:], **node.attributes)
    return [scatter(t, cotangents[0], taken, x)]


def scatter(t: GraphBuilder, g: str, positions: str, x: str) -> str:
    """Zeros of the shape of x, with each number of g added at its position in the flattened x."""
    flat = t.ints([-1])
    zeros = t.op("Expand", 0.0, t.op("Reshape", t.op("Size", x), t.ints([1])))
    index, updates = t.op("Reshape", positions, flat), t.op("Reshape", g, flat)
    return t.like(t.op("ScatterElements", zeros, index, updates, axis=0, reduction="add"), x)


def put(gather: str) -> Operator:
    """ScatterElements and ScatterND, which replace numbers of x or add to them; `gather` takes from there."""

    def rule(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
        (g, index), how = (cotangents[0], node.inputs[1]), node.get("reduction", "none")
        if how not in ("none", "add"):
            raise node.refuse(f"reduction {how!r} has no rule, only 'none' and 'add' have one")
        gradients = [g, "", ""]
        if how == "none" and node.wants(0):
            zeros = t.op("Expand", 0.0, t.sizes(node.inputs[2]))
            gradients[0] = t.op(node.kind, g, index, zeros, **node.attributes)
        if node.wants(2):
            kept = {k: v for k, v in node.attributes.items() if k != "reduction"}
            gradients[2] = t.op(gather, g, index, **kept)
        return gradients

    return Operator(rule)


def gather_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """All along the axis that is indexed; the others must stay where they are."""
    same_rank = len(t.shape(node.inputs[0])) == len(t.shape(node.outputs[0]))
    return across_axis(0)(t, node, index, field) if same_rank and index == 0 else EVERYTHING


def trilu(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """The same triangle of g."""
    return [t.op("Trilu", cotangents[0], *node.inputs[1:], **node.attributes)]


def cumulative_sum(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """The sum of g from the other end."""
    turned = {**node.attributes, "reverse": 1 - node.get("reverse", 0)}
    return [t.op("CumSum", cotangents[0], node.inputs[1], **turned)]


def space_to_depth(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """DepthToSpace."""
    return [t.op("DepthToSpace", cotangents[0], blocksize=node.get("blocksize"), mode=_mode(node))]


def depth_to_space(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """SpaceToDepth, whose channels are (row, column, c); those of mode CRD are (c, row, column)."""
    size, x = node.get("blocksize"), node.inputs[0]
    g = t.op("SpaceToDepth", cotangents[0], blocksize=size)
    if _mode(node) == "DCR":
        return [g]
    channels = t.shape(x)[1]
    if not isinstance(channels, int):
        raise node.refuse("the number of channels is not known")
    split = t.op("Reshape", g, t.ints([0, size * size, channels // size**2, -1]))
    return [t.like(t.op("Transpose", split, perm=[0, 2, 1, 3]), x)]


def _mode(node: Node) -> str:
    return str(node.get("mode", "DCR"))


def space_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """A block at each position."""
    size = node.get("blocksize")
    return EVERYTHING if field.axis < -2 else field.seen_through(0, size - 1, size)


def depth_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """Position o sees the one at floor(o / size)."""
    size = node.get("blocksize")
    ends = Fraction(1 - size, size), 0, Fraction(1, size)
    return EVERYTHING if field.axis < -2 else field.seen_through(*ends)


OPERATORS: Final = {
    "CumSum": Operator(cumulative_sum),
    "DepthToSpace": Operator(depth_to_space, depth_sees),
    "Gather": Operator(pick, gather_sees),
    "GatherElements": Operator(pick, gather_sees),
    "GatherND": Operator(pick),
    "ReverseSequence": Operator(pick),
    "ScatterElements": put("GatherElements"),
    "ScatterND": put("GatherND"),
    "SpaceToDepth": Operator(space_to_depth, space_sees),
    "Tile": Operator(pick, pointwise),
    "Trilu": Operator(trilu, pointwise),
}
