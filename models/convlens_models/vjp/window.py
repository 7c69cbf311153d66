"""The window of a convolution or a pooling along one axis: how far it sees, and how gradients go back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .fields import EVERYTHING, Field
from .graph_builder import Dim, GraphBuilder, Node


class Axis(NamedTuple):
    """One spatial axis: place o reads x[stride * o + dilation * k - begin] for taps k < kernel."""

    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    length: Dim  # of the input
    places: Dim  # of the output

    @property
    def reach(self) -> int:
        """The distance from the first tap to the last, in positions of x."""
        return self.dilation * (self.kernel - 1)

    def fits(self, ceil_mode: int) -> bool:
        """Whether the first window fits into the padded input; with ceil_mode it may reach beyond its end."""
        slack = self.stride - 1 if ceil_mode else 0
        length = self.length if isinstance(self.length, int) else 0
        return length > 0 and length + self.begin + self.end + slack > self.reach

    def padded(self) -> Axis:
        """The same axis once its pads are part of x."""
        length = self.length + self.begin + self.end if isinstance(self.length, int) else self.length
        return self._replace(begin=0, end=0, length=length)

    def growth(self, split: int = 1) -> int:
        """How much longer the phases of x's gradient are than those of y's, which are `split` along the axis.

        Where sizes are open: enough for every size.
        """
        step = self.stride * split
        if isinstance(self.length, int) and isinstance(self.places, int):
            return -(-self.length // step) - -(-self.places // split)
        return -(-(self.reach - self.begin - self.end) // step)

    def shifts(self, phase: int, split: int = 1, source: int = 0) -> dict[int, int]:
        """{m: k}: tap k carries position q of y's phase `source` to position q + m of x's `phase`.

        Place split * q + source and tap k meet at stride * (split * q + source) + dilation * k - begin, which
        must be stride * split * (q + m) + phase.
        """
        step = self.stride * split
        ends = {k: self.stride * source + self.dilation * k - self.begin - phase for k in range(self.kernel)}
        return {end // step: k for k, end in ends.items() if end % step == 0}


class Taps(NamedTuple):
    """A kernel that applies shifts: at each position a tap of the original kernel, or None for zero."""

    begin: int
    end: int
    taps: list[int | None]


def taps(shifts: dict[int, int], growth: int, span: Iterable[int] = ()) -> Taps:
    """The kernel and pads of the convolution out[q + m] += w[k] in[q] for {m: k} in `shifts`.

    Its output is `growth` longer than its input. `span` are shifts that it must leave room for.
    """
    high, low = max(0, *shifts, *span), min(growth, *shifts, *span)
    return Taps(high, growth - low, [shifts.get(m) for m in range(high, low - 1, -1)])


class Probe(NamedTuple):
    """A kernel that reads one number of each window: its marked tap, the taps' distance, the pad behind x."""

    marks: list[bool]
    dilation: int
    end: int


def probe(axis: Axis, offset: int) -> Probe:
    """The shortest kernel that reads x[stride * o + offset - begin] for exactly the places o of the axis.

    At most two taps, the first of the window and one that lies far enough behind it to give as many places.
    """
    for reach in range(offset, axis.reach):
        end = axis.end - axis.reach + reach  # As many places, whatever the size.
        if isinstance(axis.length, int) and isinstance(axis.places, int):
            end = max(0, axis.stride * (axis.places - 1) + reach + 1 - axis.length - axis.begin)
            room = axis.length + axis.begin + end - reach - 1
            if room // axis.stride + 1 != axis.places:
                continue
        if end >= 0 and offset in {0, reach}:
            marks = [True] if not reach else [offset == 0, offset == reach]
            return Probe(marks, max(1, reach), end)
    return Probe([axis.dilation * k == offset for k in range(axis.kernel)], axis.dilation, axis.end)


def windows(t: GraphBuilder, node: Node) -> tuple[Axis, Axis]:
    """The two spatial axes of a Conv or pooling node: x is its first input, a kernel its second."""
    x, y = t.shape(node.inputs[0]), t.shape(node.outputs[0])
    kernel = node.get("kernel_shape") or list(t.shape(node.inputs[1])[2:])
    if len(kernel) != 2 or len(x) != 4:
        raise node.refuse("only two spatial dimensions have a rule")
    strides = node.get("strides", [1, 1])
    dilations = node.get("dilations", [1, 1])
    rows, columns = (
        Axis(kernel[i], strides[i], dilations[i], *_pads(node, i, kernel, x[2 + i]), x[2 + i], y[2 + i])
        for i in range(2)
    )
    return rows, columns


def slides(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """Conv and poolings: the window at each position."""
    if index or len(t.shape(node.inputs[0])) != 4 or field.axis < -2:
        return EVERYTHING
    axis = windows(t, node)[field.axis + 2]
    return field.seen_through(-axis.begin, axis.reach - axis.begin, axis.stride)


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
        sum_of_pads = reach
    elif isinstance(length, int):
        sum_of_pads = max(0, (-(-length // stride) - 1) * stride + reach + 1 - length)
    else:
        raise node.refuse(f"auto_pad {mode} with a stride needs known sizes")
    small, large = sum_of_pads // 2, sum_of_pads - sum_of_pads // 2
    return (small, large) if mode == "SAME_UPPER" else (large, small)
