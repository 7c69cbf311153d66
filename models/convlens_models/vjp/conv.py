"""Rules of the convolutions.

The gradient of a convolution's input is a convolution of g again. Written as ConvTranspose it is slow:
ONNX Runtime keeps Conv in its blocked layout, but not ConvTranspose. So it is written as Conv. With stride 1
that is the flipped kernel, its input and output channels exchanged. With stride s, position s*q + r of the
image meets only the taps k = r + pad (mod s): each of the s*s phases r of the gradient is a small convolution
of its own. If g itself comes in phases (from a pooling), every pair of phases is one. Kernels are rearranged
by nodes on initializers, which ONNX Runtime computes once, when it builds the session.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from .fields import EVERYTHING, Field
from .graph_builder import GraphBuilder, Node, known_sizes
from .layouts import Polyphase, Whole, crop, fit, layout_of, total
from .operator import Operator
from .same import padded_to_same, pads_by_size
from .window import Axis, Taps, slides, taps, windows

BLOCK = 16  # Channels that ONNX Runtime computes together; a convolution with fewer outputs wastes the rest.
FEW = 4  # Channels of which several phases fit into a block.


@dataclass(frozen=True)
class Kernel:
    """Weights [outputs, inputs / groups, height, width] and how they slide; `axes` are those of x and y."""

    weight: str
    sizes: list[int]
    axes: tuple[Axis, Axis]
    groups: int = 1

    @property
    def inputs(self) -> int:
        """The number of channels of x."""
        return self.sizes[1] * self.groups

    @property
    def stride(self) -> int:
        """The stride, 0 if it differs between the axes."""
        return self.axes[0].stride if self.axes[0].stride == self.axes[1].stride else 0


def conv(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Conv: the gradient of its image x by `input_gradient`, that of its kernel by `kernel_gradient`."""
    x, weight = node.inputs[:2]
    others = ["", ""]
    if node.wants(1):
        others[0] = kernel_gradient(t, node, t.whole(cotangents[0]))
    if node.wants(2):
        axes = [axis for axis in range(len(t.shape(x))) if axis != 1]
        others[1] = t.op("ReduceSum", cotangents[0], t.ints(axes), keepdims=0)
    if not node.wants(0):
        return ["", *others]
    if (sizes := known_sizes(t.shape(weight))) is None:
        raise node.refuse(f"the shape of {weight!r} is not known")
    g, groups = cotangents[0], node.get("group", 1)
    if groups == 1:
        g, met = layout_of(t, g).with_kernel(t, weight)
        sizes[0] = sizes[0] if met == weight else -1
        weight = met
    if not pads_by_size(t, node):
        return [input_gradient(t, g, Kernel(weight, sizes, windows(t, node), groups), x), *others]
    padded = padded_to_same(t, node, sizes[2:])
    inner = input_gradient(t, g, Kernel(weight, sizes, padded.axes, groups), padded.value)
    return [t.op("Slice", inner, padded.begins, padded.ends, t.ints([2, 3])), *others]


def kernel_gradient(t: GraphBuilder, node: Node, g: str) -> str:
    """x convolved with g, images in the place of channels, strides and dilations exchanged.

    For kernels that are made of the image, as in CondConv (Yang et al. 2019, arXiv:1904.04971).
    """
    if pads_by_size(t, node):
        raise node.refuse("its kernel is made of the image, and its pads depend on the size")
    x, groups, axes = node.inputs[0], node.get("group", 1), windows(t, node)

    def by_group(value: str) -> str:
        """[N, groups c, h, w] as [groups, c, N, h, w]."""
        apart = t.op("Reshape", value, t.op("Concat", t.ints([0, groups, -1]), _map(t, value), axis=0))
        return t.op("Transpose", apart, perm=[1, 2, 0, 3, 4])

    images = t.op("Transpose", by_group(x), perm=[1, 0, 2, 3, 4])
    images = t.op("Reshape", images, t.op("Concat", t.ints([0, -1]), _map(t, x), axis=0))
    kernels = by_group(g)
    sides = t.op("Shape", kernels, start=2)
    kernels = t.op("Reshape", kernels, t.op("Concat", t.ints([-1]), sides, axis=0))
    found = t.op(
        "Conv",
        images,
        kernels,
        group=groups,
        pads=[axis.begin for axis in axes] + [max(0, axis.end) for axis in axes],
        strides=[axis.dilation for axis in axes],
        dilations=[axis.stride for axis in axes],
    )
    ends = t.ints([axis.kernel for axis in axes])
    kept = t.op("Slice", found, t.ints([0, 0]), ends, t.ints([2, 3]))
    return t.op("Transpose", kept, perm=[1, 0, 2, 3])


def _map(t: GraphBuilder, value: str) -> str:
    """Height and width of an image, as a tensor."""
    return t.op("Shape", value, start=2)


def conv_transpose(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """ConvTranspose: the plain convolution of g with the same kernel."""
    if any(node.wants(index) for index in range(1, len(node.inputs))):
        raise node.refuse("the kernel or the bias depends on the image")
    if _pads_follow_from_sizes(node):
        raise node.refuse("output_shape and auto_pad have no rule, pads have one")
    kept = {k: v for k, v in node.attributes.items() if k != "output_padding"}
    return [t.op("Conv", cotangents[0], node.inputs[1], **kept)]


def _pads_follow_from_sizes(node: Node) -> bool:
    return bool(node.get("output_shape")) or node.get("auto_pad", "NOTSET") != "NOTSET"


def conv_transpose_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """Position o sees those from (o + pad - reach) / stride to (o + pad) / stride that are whole numbers."""
    kernel: list[Any] = node.get("kernel_shape") or list(t.shape(node.inputs[1])[2:])
    if index or len(kernel) != 2 or field.axis < -2 or _pads_follow_from_sizes(node):
        return EVERYTHING
    along = field.axis + 2
    stride, dilation = node.get("strides", [1, 1])[along], node.get("dilations", [1, 1])[along]
    pad, reach = node.get("pads", [0] * 4)[along], dilation * (kernel[along] - 1)
    return field.seen_through(Fraction(pad - reach, stride), Fraction(pad, stride), Fraction(1, stride))


def input_gradient(t: GraphBuilder, g: str, kernel: Kernel, x: str) -> str:
    """The gradient of a convolution's input x, given that of its output; see the top of the file."""
    dilated = any(axis.dilation > 1 for axis in kernel.axes)
    beyond = any(axis.begin > axis.reach for axis in kernel.axes)
    if not kernel.stride or beyond or (dilated and kernel.stride > 1):
        return _by_transposed_convolution(t, g, kernel, x)
    phases = Whole(name=g).phases() if dilated else layout_of(t, g).phases()
    step = kernel.stride * phases.stride
    if step == 1:
        return _unstrided(t, phases.pieces[0, 0], kernel)
    if (
        kernel.groups == 1
        and kernel.inputs <= FEW
        and all(axis.kernel >= axis.stride for axis in kernel.axes)
    ):
        return fit(t, _interleaved_blocks(t, phases, kernel, step), x, step)
    places = itertools.product(range(step), range(step))
    pieces = {place: _phases(t, phases, kernel, [place]) for place in places}
    return Polyphase(step, {place: piece for place, piece in pieces.items() if piece}, x).keep(t)


def _interleaved_blocks(t: GraphBuilder, g: Polyphase, kernel: Kernel, step: int) -> str:
    """All phases of a gradient of few channels: squares of neighbouring phases fill BLOCK channels."""
    side = min(step, math.isqrt(BLOCK // kernel.inputs))
    runs = [range(start, min(start + side, step)) for start in range(0, step, side)]
    squares = [[*itertools.product(rows, columns)] for rows in runs for columns in runs]
    pieces = [_phases(t, g, kernel, square) for square in squares]
    order = [(c, *place) for square in squares for c in range(kernel.inputs) for place in square]
    joined = pieces[0]
    if len(pieces) > 1:
        ordered = sorted(range(len(order)), key=order.__getitem__)
        joined = t.op("Gather", t.op("Concat", *pieces, axis=1), t.ints(ordered), axis=1)
    return t.op("DepthToSpace", joined, blocksize=step, mode="CRD")


def _unstrided(t: GraphBuilder, g: str, kernel: Kernel) -> str:
    turned = _turn(t, kernel, [[[*range(axis.kernel)][::-1]] for axis in kernel.axes])
    begins, ends = zip(*((a.reach - a.begin, a.reach - a.end) for a in kernel.axes), strict=True)
    dilations = [axis.dilation for axis in kernel.axes]
    if min(ends) < 0:
        g = t.op("Slice", g, t.ints([0, 0]), t.ints([min(end, 0) or 2**62 for end in ends]), t.ints([2, 3]))
        ends = tuple(max(end, 0) for end in ends)
    return t.op("Conv", g, turned, group=kernel.groups, pads=[*begins, *ends], dilations=dilations)


def _phases(t: GraphBuilder, g: Polyphase, kernel: Kernel, places: list[tuple[int, int]]) -> str:
    """The phases `places` of x's gradient as channels (c, place); "" if it is zero."""
    sums = []
    for source, piece in g.pieces.items():
        both: list[list[Taps]] = []
        for axis, at, phases in zip(kernel.axes, source, zip(*places, strict=True), strict=True):
            shifts = [axis.shifts(phase, g.stride, at) for phase in sorted(set(phases))]
            span = {m for shift in shifts for m in shift}
            both.append([taps(shift, axis.growth(g.stride), span) for shift in shifts] if span else [])
        if not all(both):
            continue
        begins, ends = zip(*((along[0].begin, along[0].end) for along in both), strict=True)
        turned = _turn(t, kernel, [[phase.taps for phase in along] for along in both])
        sums.append(t.op("Conv", piece, turned, group=kernel.groups, pads=[*begins, *ends]))
        if len(sums) > 1:
            sums = [t.op("Add", *sums)]
    return total(t, sums)


def _turn(t: GraphBuilder, kernel: Kernel, chosen: list[list[list[int | None]]]) -> str:
    """The kernel with the chosen taps, [phase][position] along y and x, inputs and outputs exchanged.

    [M, C/groups, rows, columns] becomes [C * phases y * phases x, M/groups, positions y, positions x].
    """
    weight = kernel.weight
    missing = [any(None in phase for phase in along) for along in chosen]
    if any(missing):
        weight = t.once("Pad", weight, t.ints([0] * 6 + [int(some) for some in missing]))
    for i, (along, axis) in enumerate(zip(chosen, kernel.axes, strict=True)):
        index = [[axis.kernel if tap is None else tap for tap in phase] for phase in along]
        weight = t.once("Gather", weight, t.ints(np.array(index)), axis=2 + 2 * i)
    outputs, inputs = kernel.sizes[:2]
    many, sizes = [len(along) for along in chosen], [len(along[0]) for along in chosen]
    split = [kernel.groups, outputs // kernel.groups, inputs, many[0], sizes[0], many[1], sizes[1]]
    weight = t.once("Transpose", t.once("Reshape", weight, t.ints(split)), perm=[0, 2, 3, 5, 1, 4, 6])
    channels = kernel.inputs * many[0] * many[1]
    return t.once("Reshape", weight, t.ints([channels, outputs // kernel.groups, *sizes]))


def _by_transposed_convolution(t: GraphBuilder, g: str, kernel: Kernel, x: str) -> str:
    """For unequal strides, dilated strides and pads beyond the kernel."""
    whole = t.op(
        "ConvTranspose",
        g,
        kernel.weight,
        group=kernel.groups,
        strides=[axis.stride for axis in kernel.axes],
        dilations=[axis.dilation for axis in kernel.axes],
        output_padding=[axis.stride - 1 for axis in kernel.axes],
    )
    return crop(t, whole, x, (kernel.axes[0].begin, kernel.axes[1].begin))


OPERATORS: Final = {
    "Conv": Operator(conv, slides, kernel=True),
    "ConvTranspose": Operator(conv_transpose, conv_transpose_sees),
}
