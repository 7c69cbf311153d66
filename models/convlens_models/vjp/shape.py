"""Rules of the operators that only move numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from .fields import EVERYTHING, Field, across_axis, pointwise
from .graph_builder import GraphBuilder, Node, known_sizes
from .layouts import layout_of
from .operator import Operator
from .positions import pick


def same(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Identity, Dropout at inference, and casts from float32 to itself."""
    return [cotangents[0]]


def reshape(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Reshape, Flatten, Squeeze and Unsqueeze: back to the input's shape."""
    return [layout_of(t, cotangents[0]).reshape(t, node.inputs[0])]


def reshape_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """The same positions where this axis and all behind it stay as they are."""
    before, after = (known_sizes(t.shape(value)[field.axis :]) for value in (node.inputs[0], node.outputs[0]))
    return field if index == 0 and before and before == after else EVERYTHING


def transpose(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g with its axes in the order of x again."""
    return [t.op("Transpose", cotangents[0], perm=np.argsort(_permutation(t, node)).tolist())]


def transpose_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """The same positions along another axis."""
    order = _permutation(t, node)
    return field._replace(axis=order.index(len(order) + field.axis) - len(order))


def _permutation(t: GraphBuilder, node: Node) -> list[int]:
    rank = len(t.shape(node.inputs[0]))
    order: list[int] = node.get("perm", list(range(rank))[::-1])
    return order


def concat(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g cut up again; only the parts that are asked for."""
    axis = node.get("axis")
    ends = [t.ints([0]), *(_end(t, node.inputs[: index + 1], axis) for index in range(len(node.inputs)))]
    return [
        t.op("Slice", cotangents[0], ends[index], ends[index + 1], t.ints([axis]))
        if node.wants(index)
        else ""
        for index in range(len(node.inputs))
    ]


def _end(t: GraphBuilder, values: list[str], axis: int) -> str:
    """The position along `axis` at which the last of the joined `values` ends, a tensor [1]."""
    if (known := known_sizes(t.shape(value)[axis] for value in values)) is not None:
        return t.ints([sum(known)])
    end = t.ints([0])
    for value in values:
        end = t.once("Add", end, t.once("Gather", t.sizes(value), t.ints([axis])))
    return end


def split(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """The gradients of the parts joined; zeros for parts that nobody used."""
    parts = [
        g or t.op("Expand", 0.0, t.sizes(part)) for g, part in zip(cotangents, node.outputs, strict=True)
    ]
    return [t.op("Concat", *parts, axis=node.get("axis", 0))]


def pad(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g without what was padded; pads that repeat the image add up there."""
    if node.get("mode", "constant") != "constant":
        return pick(t, node, cotangents)
    return [t.op("Pad", cotangents[0], t.op("Neg", node.inputs[1]), "", *node.inputs[3:])]


def pad_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """The same positions, behind the pads; everything where the pads are not constant or repeat the image."""
    begin = _along(t, node, field, node.inputs[1], default=0)
    plain = index == 0 and node.get("mode", "constant") == "constant"
    return EVERYTHING if begin is None or not plain else field.seen_through(-begin, -begin)


def _along(t: GraphBuilder, node: Node, field: Field, numbers: str, default: int) -> int | None:
    """What the constant input `numbers` of a Pad or Slice has for the field's axis; None if it is not known.

    The axes of the numbers are the fourth input; without it they are 0, 1, ...
    """
    values = t.constant_of(numbers) if numbers else np.zeros(0, np.int64)
    rank = len(t.shape(node.inputs[0]))
    axes = t.constant_of(node.input(3)) if node.input(3) else np.arange(rank)
    if values is None or axes is None:
        return None
    return int(dict(zip(axes % rank, values, strict=False)).get(rank + field.axis, default))


def slice_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """Every step-th position from a constant one on; everything where it counts from the end or backwards."""
    start = _along(t, node, field, node.inputs[1], default=0)
    step = _along(t, node, field, node.input(4), default=1)
    if index or start is None or step is None or start < 0 or step < 1:
        return EVERYTHING
    return field.seen_through(start, start, step)


def squeeze_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """Squeeze and Unsqueeze: the same positions along what may be another axis, counted from the last."""
    axes = t.constant_of(node.input(1)) if node.input(1) else None
    if axes is None:
        return EVERYTHING
    before, after = (len(t.shape(value)) for value in (node.inputs[0], node.outputs[0]))
    rank, place = max(before, after), before + field.axis
    kept = [axis for axis in range(rank) if axis not in axes % rank]
    if after > before:
        return field._replace(axis=kept[place] - after)
    return field._replace(axis=kept.index(place) - after) if place in kept else EVERYTHING


OPERATORS: Final = {
    "Cast": Operator(same, pointwise),
    "CastLike": Operator(same, pointwise),
    "Concat": Operator(concat, across_axis(0)),
    "Dropout": Operator(same, pointwise, by_channel=True),
    "Flatten": Operator(reshape, by_channel=True),
    "Identity": Operator(same, pointwise, by_channel=True),
    "Pad": Operator(pad, pad_sees),
    "Reshape": Operator(reshape, reshape_sees),
    "Slice": Operator(pick, slice_sees),
    "Split": Operator(split, across_axis(0)),
    "Squeeze": Operator(reshape, squeeze_sees),
    "Transpose": Operator(transpose, transpose_sees),
    "Unsqueeze": Operator(reshape, squeeze_sees),
}
