"""Rules of the operators that only move numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .gradients import SparseChannels
from .graph_builder import GraphBuilder, Node


def same(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Identity, Dropout at inference, and casts from float32 to itself."""
    return [cotangents[0]]


def reshape(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Reshape, Flatten, Squeeze and Unsqueeze: back to the input's shape."""
    pieces, x = t.pieces.get(cotangents[0]), node.inputs[0]
    if isinstance(pieces, SparseChannels) and t.shape(x)[2:] == (1, 1):
        lifted = t.op("Unsqueeze", pieces.piece, t.ints([2, 3]))
        return [t.keep(replace(pieces, piece=lifted, value=x))]
    return [t.like(cotangents[0], node.inputs[0])]


def transpose(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """The inverse permutation."""
    rank = len(t.shape(node.inputs[0]))
    perm = node.get("perm", list(range(rank))[::-1])
    return [t.op("Transpose", cotangents[0], perm=np.argsort(perm).tolist())]


def concat(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Cut the gradient up again; only the parts that are asked for."""
    axis = node.get("axis")
    ends = [t.ints([0]), *(_end(t, node.inputs[: index + 1], axis) for index in range(len(node.inputs)))]
    return [
        t.op("Slice", cotangents[0], ends[index], ends[index + 1], t.ints([axis]))
        if node.wants(index)
        else ""
        for index in range(len(node.inputs))
    ]


def _end(t: GraphBuilder, values: list[str], axis: int) -> str:
    """Where the last of `values` ends."""
    sizes = [t.shape(value)[axis] for value in values]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        return t.ints([sum(known)])
    end = t.ints([0])
    for value in values:
        end = t.once("Add", end, t.once("Gather", t.sizes(value), t.ints([axis])))
    return end


def split(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Put the parts together; zeros for those that nobody used."""
    parts = [
        g or t.op("Expand", t.floats(0.0), t.sizes(part))
        for g, part in zip(cotangents, node.outputs, strict=True)
    ]
    return [t.op("Concat", *parts, axis=node.get("axis", 0))]


def pad(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Cut off what was padded."""
    if node.get("mode", "constant") != "constant":
        raise node.refuse(f"mode {node.get('mode')!r} has no rule, only 'constant' has one")
    return [t.op("Pad", cotangents[0], t.op("Neg", node.inputs[1]), "", *node.inputs[3:])]


def pick(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Slice, Gather and GatherElements: run on the positions 0, 1, 2, ..., they say what they took."""
    x = node.inputs[0]
    count = t.op("Size", x)
    positions = t.like(t.op("Range", t.ints(0), count, t.ints(1)), x)
    taken = t.op(node.kind, positions, *node.inputs[1:], **node.attributes)
    return [scatter(t, cotangents[0], taken, x)]


def scatter(t: GraphBuilder, g: str, positions: str, x: str) -> str:
    """Zeros of the shape of x, with each number of g added at its position in the flattened x."""
    flat = t.ints([-1])
    zeros = t.op("Expand", t.floats(0.0), t.op("Reshape", t.op("Size", x), t.ints([1])))
    index, updates = t.op("Reshape", positions, flat), t.op("Reshape", g, flat)
    return t.like(t.op("ScatterElements", zeros, index, updates, axis=0, reduction="add"), x)
