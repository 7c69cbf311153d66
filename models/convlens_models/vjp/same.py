"""Convolutions whose automatic pads follow from sizes that are open: the graph works them out as it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .graph_builder import GraphBuilder, Node
from .window import Axis


class Padded(NamedTuple):
    """The image of a convolution with its pads, and where in it the image begins and ends."""

    value: str
    begins: str
    ends: str
    axes: tuple[Axis, Axis]


def pads_by_size(t: GraphBuilder, node: Node) -> bool:
    """Whether the pads are automatic, there is a stride, and the sizes of x, which decide, are open."""
    automatic = node.get("auto_pad", "NOTSET").startswith("SAME")
    lengths = t.shape(node.inputs[0])[2:]
    return automatic and any(
        stride > 1 and not isinstance(length, int)
        for stride, length in zip(node.get("strides", [1, 1]), lengths, strict=True)
    )


def padded_to_same(t: GraphBuilder, node: Node, kernel: Sequence[int]) -> Padded:
    """x with max(0, reach - (n - 1) mod stride) zeros along an axis of n, half before it, or one less.

    With SAME_LOWER half behind it, or one less.
    """
    if len(kernel) != 2:
        raise node.refuse("only two spatial dimensions have a rule")
    strides, dilations = node.get("strides", [1, 1]), node.get("dilations", [1, 1])
    reach = [dilation * (taps - 1) for dilation, taps in zip(dilations, kernel, strict=True)]
    x = node.inputs[0]
    sizes = t.op("Slice", t.sizes(x), t.ints([2]), t.ints([4]))
    over = t.op("Mod", t.op("Sub", sizes, t.ints([1, 1])), t.ints(strides))
    both = t.op("Max", t.op("Sub", t.ints(reach), over), t.ints([0, 0]))
    less = t.op("Div", both, t.ints([2, 2]))
    more = t.op("Sub", both, less)
    begins, rest = (less, more) if node.get("auto_pad") == "SAME_UPPER" else (more, less)
    none = t.ints([0, 0])
    value = t.op("Pad", x, t.op("Concat", none, begins, none, rest, axis=0))
    t.describe(value, t.shape(x)[:2])
    axes = [Axis(kernel[i], strides[i], dilations[i], 0, 0, None, None) for i in range(2)]
    return Padded(value, begins, t.op("Add", begins, sizes), (axes[0], axes[1]))
