"""Rules of the poolings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Final

import numpy as np

from .conv import Kernel, input_gradient
from .draft import LOWEST
from .graph_builder import GraphBuilder, Node, ReluRule
from .layouts import Polyphase, layout_of, map_size
from .operator import Operator
from .positions import scatter
from .reduce import share
from .window import Axis, Taps, probe, slides, taps, windows

MOST_TAPS = 16  # Of larger windows the operator itself says where the maximum was.


def max_pool(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Each g goes to the place of its window's first maximum; windows that overlap add up.

    MaxPool's own indices cost more than all else in a gradient graph. So each tap k of the window is compared
    with the maximum y, in window order: what is still unplaced goes to tap k where x_k = y, the rest goes on.
    The comparison y - x_k > 0 is a convolution with a single -1 in its kernel, in which ONNX Runtime includes
    the addition of y and the step function. Equal numbers tie as in PyTorch: the first one wins.
    """
    x, y, g = node.inputs[0], node.outputs[0], cotangents[0]
    axes, channels = _windows(t, node), t.shape(x)[1]
    if axes[0].kernel * axes[1].kernel > MOST_TAPS or axes[0].stride != axes[1].stride:
        return [_by_indices(t, node, g)]
    if not isinstance(channels, int):
        raise node.refuse("the number of channels is not known")
    masked = t.rule is not ReluRule.DECONVNET and _made_by(t, x, {"Relu"})
    if masked:  # Here, where there is a quarter as much to mask.
        g = t.mul(g, t.positive(y))
    placed = _place(t, node, g, axes, channels)
    pieces = _gather_phases(t, placed, axes, channels)
    stride = axes[0].stride
    if stride == 1:
        return [pieces[0, 0]]
    return [Polyphase(stride, pieces, x, clean=True, masked=masked).keep(t)]


def _windows(t: GraphBuilder, node: Node) -> tuple[Axis, Axis]:
    axes = windows(t, node)
    if node.get("ceil_mode", 0) and any(axis.stride + axis.end > axis.reach + 1 for axis in axes):
        raise node.refuse("with ceil_mode a window may begin behind the image, where runtimes differ")
    return axes


def _place(
    t: GraphBuilder, node: Node, g: str, axes: tuple[Axis, Axis], channels: int
) -> dict[tuple[int, int], str]:
    """{tap: the part of g whose window has its first maximum there}."""
    source, axes = _padded(t, node, axes)
    every = list(product(range(axes[0].kernel), range(axes[1].kernel)))
    left, placed = g, {}
    for tap in every[:-1]:
        probes = [probe(axis, axis.dilation * k) for axis, k in zip(axes, tap, strict=True)]
        minus = t.op(
            "Conv",
            source,
            _marks(t, [each.marks for each in probes], channels, -1.0),
            group=channels,
            strides=[axis.stride for axis in axes],
            dilations=[each.dilation for each in probes],
            pads=[*(axis.begin for axis in axes), *(each.end for each in probes)],
        )
        rest = t.mul(left, t.positive(t.add(minus, node.outputs[0])))
        placed[tap] = _subtract(t, left, rest, channels)
        left = rest
    return {**placed, every[-1]: left}


def _marks(t: GraphBuilder, along: Sequence[list[bool]], channels: int, value: float) -> str:
    """A depthwise kernel of zeros with `value` at the marked position."""
    mark = np.outer(np.asarray(along[0]), np.asarray(along[1])) * value
    return t.floats(np.broadcast_to(mark, (channels, 1, *mark.shape)))


def _padded(t: GraphBuilder, node: Node, axes: tuple[Axis, Axis]) -> tuple[str, tuple[Axis, Axis]]:
    """x and its axes with floor in place of ceil; padded here where the zeros of pads could win.

    After a ReLU zeros can win only where all of the window is zero, and there the ReLU blocks g anyway. Only
    a deconvnet's does not, but unless there are pads before x the first maximum is in x then too.
    """
    x = node.inputs[0]
    over = [axis.stride - 1 if node.get("ceil_mode", 0) else 0 for axis in axes]
    axes = (axes[0]._replace(end=axes[0].end + over[0]), axes[1]._replace(end=axes[1].end + over[1]))
    begins, ends = [axis.begin for axis in axes], [axis.end for axis in axes]
    blocked = t.rule is not ReluRule.DECONVNET or not any(begins)
    if not any(begins + ends) or (blocked and _made_by(t, x, {"Relu", "MaxPool", "Concat"})):
        return x, axes
    padded = t.op("Pad", x, t.ints([0, 0, *begins, 0, 0, *ends]), t.floats(LOWEST))
    return padded, (axes[0].padded(), axes[1].padded())


def _made_by(t: GraphBuilder, value: str, kinds: set[str]) -> bool:
    """Whether `value` comes out of a ReLU, behind nothing but operators of `kinds`."""
    maker = t.producer.get(value)
    if maker is None or maker.op_type not in kinds:
        return False
    return maker.op_type == "Relu" or all(_made_by(t, source, kinds) for source in maker.input)


def _gather_phases(
    t: GraphBuilder, placed: dict[tuple[int, int], str], axes: tuple[Axis, Axis], channels: int
) -> dict[tuple[int, int], str]:
    """The phases of x's gradient: what was placed at each tap, moved from window to position, and summed."""
    sums: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for phase in product(range(axes[0].stride), range(axes[1].stride)):
        shifts = [axis.shifts(at) for axis, at in zip(axes, phase, strict=True)]
        for (down, tap_y), (right, tap_x) in product(*(shift.items() for shift in shifts)):
            moves = [taps({m: 0}, a.growth()) for m, a in zip((down, right), axes, strict=True)]
            moved = _move(t, placed[tap_y, tap_x], moves, channels)
            sums[phase] = [t.add(moved, sums[phase][0]) if sums[phase] else moved]
    return {phase: pieces[0] for phase, pieces in sums.items()}


def _move(t: GraphBuilder, value: str, moves: Sequence[Taps], channels: int) -> str:
    """`value` moved by a depthwise convolution with a kernel of a single 1."""
    if all(move == Taps(0, 0, [0]) for move in moves):
        return value
    kernel = _marks(t, [[tap is not None for tap in move.taps] for move in moves], channels, 1.0)
    pads = [move.begin for move in moves] + [move.end for move in moves]
    return t.op("Conv", value, kernel, group=channels, pads=pads)


def _subtract(t: GraphBuilder, a: str, b: str, channels: int) -> str:
    """a - b as a convolution and an addition, which ONNX Runtime makes one node in its blocked layout."""
    minus = t.op("Conv", b, t.floats(np.full((channels, 1, 1, 1), -1.0)), group=channels)
    return t.add(minus, a)


def _by_indices(t: GraphBuilder, node: Node, g: str) -> str:
    if len(node.proto.output) == 1:
        node.proto.output.append(t.fresh(f"{node.outputs[0]}/indices"))
    return scatter(t, g, node.proto.output[1], node.inputs[0])


def average_pool(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g over the number of values in its window, repeated over the window."""
    sizes, axes, channels = node.get("kernel_shape"), _windows(t, node), t.shape(node.inputs[0])[1]
    if not isinstance(channels, int):
        raise node.refuse("the number of channels is not known")
    ones = Kernel(t.floats(np.ones((channels, 1, *sizes))), [channels, 1, *sizes], axes, channels)
    g = t.mul(cotangents[0], _weight_of_a_value(t, node, axes))
    return [input_gradient(t, g, ones, node.inputs[0])]


def _weight_of_a_value(t: GraphBuilder, node: Node, axes: tuple[Axis, Axis]) -> str:
    """One over the divisor of each window, [1, 1, H, W] where it differs: mean of ones / their number."""
    if not node.get("ceil_mode", 0) and not any(axis.begin + axis.end for axis in axes):
        return t.floats(1.0 / (axes[0].kernel * axes[1].kernel))
    x, y = node.inputs[0], node.outputs[0]
    ones = t.op("Expand", 1.0, map_size(t, x))
    # The operator itself says how it counts pads and the overhang of ceil_mode.
    means = t.op("AveragePool", ones, **node.attributes)
    kernel = t.floats(np.ones((1, 1, axes[0].kernel, axes[1].kernel)))
    overhang = [axis.stride if node.get("ceil_mode", 0) else 0 for axis in axes]
    pads = [axes[0].begin, axes[1].begin, axes[0].end + overhang[0], axes[1].end + overhang[1]]
    strides, dilations = [axis.stride for axis in axes], [axis.dilation for axis in axes]
    counts = t.op("Conv", ones, kernel, pads=pads, strides=strides, dilations=dilations)
    places = t.op("Slice", t.sizes(y), t.ints([2]), t.ints([4]))
    counts = t.op("Slice", counts, t.ints([0, 0]), places, t.ints([2, 3]))
    return t.div(means, counts)


def global_average_pool(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g over the number of positions, repeated."""
    x = node.inputs[0]
    part = share(t, node, range(2, len(t.shape(x))))
    g = layout_of(t, cotangents[0]).map(t, lambda g: t.mul(g, part))
    return [layout_of(t, g).repeat(t, x)]


def global_max_pool(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g at the first maximum of each channel."""
    x, flat = node.inputs[0], t.ints([0, 0, -1])
    rows = t.op("Reshape", x, flat)
    first = t.op("ArgMax", rows, axis=2, keepdims=1)
    zeros = t.op("Expand", 0.0, t.op("Shape", rows))
    g = t.op("Reshape", cotangents[0], flat)
    return [t.like(t.op("ScatterElements", zeros, first, g, axis=2), x)]


OPERATORS: Final = {
    "AveragePool": Operator(average_pool, slides),
    "GlobalAveragePool": Operator(global_average_pool, by_channel=True),
    "GlobalMaxPool": Operator(global_max_pool),
    "LpPool": Operator(sees=slides),
    "MaxPool": Operator(max_pool, slides),
}
