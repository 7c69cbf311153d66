"""The window of a convolution or a pooling: kernel, strides, dilations and pads."""

from __future__ import annotations

from typing import NamedTuple

from .tape import Dim, Node, Tape


class Axis(NamedTuple):
    """One spatial axis: the window reads x[stride * o + dilation * k - begin] for k < kernel."""

    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    length: Dim  # of the input
    places: Dim  # of the output

    @property
    def reach(self) -> int:
        """How far the last tap lies behind the first."""
        return self.dilation * (self.kernel - 1)


def axes_of(t: Tape, node: Node, kernel: list[int]) -> tuple[Axis, Axis]:
    """The two spatial axes of a Conv or pooling node with the input x first."""
    x, y = t.shape(node.inputs[0]), t.shape(node.outputs[0])
    if len(kernel) != 2 or len(x) != 4:
        raise node.refuse("only two spatial dimensions have a rule")
    strides = node.get("strides", [1, 1])
    dilations = node.get("dilations", [1, 1])
    found = [
        Axis(kernel[i], strides[i], dilations[i], *_pads(node, i, kernel, x[2 + i]), x[2 + i], y[2 + i])
        for i in range(2)
    ]
    if node.get("ceil_mode", 0) and any(axis.stride + axis.end > axis.reach + 1 for axis in found):
        raise node.refuse("with ceil_mode a window may begin behind the image, where runtimes differ")
    return found[0], found[1]


def _pads(node: Node, axis: int, kernel: list[int], length: Dim) -> tuple[int, int]:
    mode = node.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = node.get("pads", [0, 0, 0, 0])
        return pads[axis], pads[axis + 2]
    if mode == "VALID":
        return 0, 0
    stride = node.get("strides", [1, 1])[axis]
    reach = node.get("dilations", [1, 1])[axis] * (kernel[axis] - 1)
    if stride == 1:
        total = reach
    elif isinstance(length, int):
        total = max(0, (-(-length // stride) - 1) * stride + reach + 1 - length)
    else:
        raise node.refuse(f"auto_pad {mode} with a stride needs known sizes")
    small, large = total // 2, total - total // 2
    return (small, large) if mode == "SAME_UPPER" else (large, small)
