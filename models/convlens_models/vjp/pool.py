"""Rules of the poolings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .conv import input_gradient
from .shape import scatter
from .tape import Node, Tape
from .window import Axis, axes_of


def max_pool(t: Tape, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Each g goes to the place of its window's first maximum; windows that overlap add up."""
    axes_of(t, node, node.get("kernel_shape"))
    if len(node.proto.output) == 1:
        node.proto.output.append(t.fresh(f"{node.outputs[0]}/indices"))
    return [scatter(t, cotangents[0], node.proto.output[1], node.inputs[0])]


def average_pool(t: Tape, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g over the number of values in its window, repeated over the window."""
    kernel = node.get("kernel_shape")
    axes = axes_of(t, node, kernel)
    channels = t.shape(node.inputs[0])[1]
    if not isinstance(channels, int):
        raise node.refuse("the number of channels is not known")
    ones = t.floats(np.ones((channels, 1, *kernel)))
    g = t.mul(cotangents[0], _weight_of_a_value(t, node, axes))
    shape = [channels, 1, *kernel]
    return [input_gradient(t, g, node.inputs[0], ones, kernel=shape, axes=axes, groups=channels)]


def _weight_of_a_value(t: Tape, node: Node, axes: tuple[Axis, Axis]) -> str:
    """One over the divisor of each window, [1, 1, H, W] where it differs: mean of ones / their number."""
    fits = all(
        isinstance(a.length, int) and isinstance(a.places, int)
        and a.begin == a.end == 0 and (a.places - 1) * a.stride + a.reach < a.length
        for a in axes
    )  # fmt: skip
    if fits or (not node.get("ceil_mode", 0) and not any(a.begin + a.end for a in axes)):
        return t.floats(1.0 / (axes[0].kernel * axes[1].kernel))
    x, y = node.inputs[0], node.outputs[0]
    ones = t.op("Expand", t.floats(1.0), _image_size(t, x))
    # The operator itself says how it counts pads and the overhang of ceil_mode.
    means = t.op("AveragePool", ones, **node.attributes)
    kernel = t.floats(np.ones((1, 1, axes[0].kernel, axes[1].kernel)))
    overhang = [a.stride if node.get("ceil_mode", 0) else 0 for a in axes]
    pads = [axes[0].begin, axes[1].begin, axes[0].end + overhang[0], axes[1].end + overhang[1]]
    strides, dilations = [a.stride for a in axes], [a.dilation for a in axes]
    counts = t.op("Conv", ones, kernel, pads=pads, strides=strides, dilations=dilations)
    places = t.op("Slice", t.sizes(y), t.ints([2]), t.ints([4]))
    counts = t.op("Slice", counts, t.ints([0, 0]), places, t.ints([2, 3]))
    return t.div(means, counts)


def _image_size(t: Tape, x: str) -> str:
    return t.op("Concat", t.ints([1, 1]), t.op("Slice", t.sizes(x), t.ints([2]), t.ints([4])), axis=0)


def global_average_pool(t: Tape, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g over the number of positions, repeated."""
    x = node.inputs[0]
    sizes = t.shape(x)[2:]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        share = t.floats(1.0 / float(np.prod(known)))
    else:
        counts = [t.op("Size", value) for value in (node.outputs[0], x)]
        share = t.op("Div", *(t.op("CastLike", count, t.floats(0.0)) for count in counts))
    return [t.op("Expand", t.mul(cotangents[0], share), t.sizes(x))]


def global_max_pool(t: Tape, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g at the first maximum of each channel."""
    x, flat = node.inputs[0], t.ints([0, 0, -1])
    rows = t.op("Reshape", x, flat)
    first = t.op("ArgMax", rows, axis=2, keepdims=1)
    zeros = t.op("Expand", t.floats(0.0), t.op("Shape", rows))
    g = t.op("Reshape", cotangents[0], flat)
    return [t.like(t.op("ScatterElements", zeros, first, g, axis=2), x)]
