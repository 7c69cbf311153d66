"""Which sizes a network takes: those that the file itself proves, or that its operators leave no doubt of.

A file that leaves its size open is run at others. One that declares its size is no witness for others: pads
and counts may have been worked out for this one. It is opened where every node either has windows or works at
each position, up to a mean or maximum of all positions; and where pads look like those of SAME padding, which
follow from the size, to sizes that leave the same remainder by the network's stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import onnx

from convlens_models.graphs import layers, surgery
from convlens_models.importing import proof
from convlens_models.importing.original import Original
from convlens_models.importing.proof import Served, Size
from convlens_models.vjp import operator_of
from convlens_models.vjp.graph_builder import GraphBuilder, Node, ReluRule
from convlens_models.vjp.window import Axis, slides, windows

OVER_ALL: Final = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin")
"""What makes one number of all positions, however many they are."""


class Sizes(NamedTuple):
    """What is known about the sizes of a network.

    Attributes:
        multiple: sides may differ from the network's own by multiples of this; 0: they may not.
        least: the smallest side, in pixels.
        proven: heights and widths at which the scores are the file's.
        error: the largest error at these, relative to the largest score.
        why: what proves it, or why other sizes are not taken.
    """

    multiple: int
    least: int
    proven: tuple[Size, ...]
    error: float
    why: str


def one(size: int) -> Sizes:
    """The one size that whoever adds the network says it is right at."""
    return Sizes(0, size, ((size, size),), 0.0, "so it was told")


def decide(served: Served, original: Original, size: int, declared: bool) -> Sizes:
    """The sizes that `served` takes, a network for square images of `size` pixels.

    Args:
        declared: whether the file says that no other size is taken.
    """
    step = stride(served.model, size)
    doubt = size_doubt(served.model, size, step) if declared else ""
    if doubt:
        return Sizes(0, size, ((size, size),), 0.0, doubt)
    witness = original.open() if declared else original
    steps = [step] if declared and pads_follow_size(served.model, size) else sorted({1, step})
    for multiple in steps:
        least = _least(served.model, size, multiple)
        sizes = _samples(size, least, multiple)
        error = proof.sizes_error(served, witness, sizes)
        if error is not None:
            why = "its operators have no size" if declared else "the file runs at them"
            return Sizes(multiple, least, ((size, size), *sizes), error, why)
    return Sizes(0, size, ((size, size),), 0.0, "at others it differs from the file, or does not run")


def _least(model: onnx.ModelProto, size: int, multiple: int) -> int:
    least = layers.min_size(model, size)
    return size - (size - least) // multiple * multiple


def _samples(size: int, least: int, multiple: int) -> list[Size]:
    """Sizes to try: the smallest, and others that are not square; odd ones and even where any may do."""
    if multiple == 1:
        return [(least, least), (size + 1, size + 18), (max(least, size // 2 | 1), size)]
    return [(least, least), (size + multiple, size), (size, size + 2 * multiple)]


def stride(model: onnx.ModelProto, size: int) -> int:
    """The least common multiple of the strides of all maps."""
    fields = layers.receptive_fields(model, size).values()
    return math.lcm(*(math.ceil(field.step) for pair in fields for field in pair if field.step), 1)


def size_doubt(model: onnx.ModelProto, size: int, step: int) -> str:
    """The first node that may hold the size, as a reason; "" where all work at each position, or over all."""
    fields = layers.receptive_fields(model, size)
    maps = {name for name, pair in fields.items() if all(field.step for field in pair)}
    shapes = [_shapes(model, side) for side in (size, size + step)]
    for node in surgery.static(model, (1, size, size)).graph.node:
        taken, made = maps.intersection(node.input), node.output[0]
        if not taken or made in maps:
            continue
        if node.op_type not in OVER_ALL or shapes[0].get(made) != shapes[1].get(made, ()):
            return f"{node.op_type} node {node.name or made!r} may hold the declared size"
    return ""


def _shapes(model: onnx.ModelProto, side: int) -> dict[str, tuple[int, ...]]:
    return surgery.shapes(surgery.static(model, (1, side, side), strict=False))


def pads_follow_size(model: onnx.ModelProto, size: int) -> bool:
    """Whether pads may be those of SAME padding worked out for `size`; they are others for other remainders.

    A window that is padded otherwise than SAME says would have been, and none is padded unevenly, shows that
    the network has pads of its own.
    """
    graph = surgery.static(model, (1, size, size)).graph
    builder = GraphBuilder(graph, ReluRule.GRADIENT)
    sliding = [Node(node) for node in graph.node if operator_of(node).sees is slides]
    # SAME that is asked for by its name pads by each size as it comes; a window of one axis sees channels.
    sliding = [
        node
        for node in sliding
        if not node.get("auto_pad", "NOTSET").startswith("SAME") and len(builder.shape(node.inputs[0])) == 4
    ]
    axes = [axis for node in sliding for axis in windows(builder, node)]
    if any(axis.begin != axis.end for axis in axes if axis.stride > 1) or _uneven_pads(builder, graph.node):
        return True
    telling = [axis for axis in axes if len({_same(axis, rest) for rest in range(axis.stride)}) > 1]
    same = [axis.begin + axis.end == _same(axis, _length(axis)) for axis in telling]
    return bool(same) and all(same)


def _same(axis: Axis, length: int) -> int:
    """The sum of the pads that SAME padding gives an axis of this length, or remainder."""
    rest = length % axis.stride or axis.stride
    return max(0, axis.reach + 1 - rest)


def _length(axis: Axis) -> int:
    return axis.length if isinstance(axis.length, int) else 0


def _uneven_pads(builder: GraphBuilder, nodes: Sequence[onnx.NodeProto]) -> bool:
    """Whether a map is padded by other numbers before than behind."""
    for proto in nodes:
        pads = builder.constant_of(proto.input[1]) if proto.op_type == "Pad" else None
        if pads is not None and not (pads[: len(pads) // 2] == pads[len(pads) // 2 :]).all():
            return True
    return False
