"""How a gradient lies in memory: in one piece, or in pieces for as long as nobody needs it whole.

Putting pieces together costs a pass over memory outside ONNX Runtime's blocked layout, and often the next
rule takes them apart again. In the graph builder pieces have a name like any value; an operator that is given
the name gets them joined. Rules say what is computed; the layouts here apply it to their pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .graph_builder import GraphBuilder


@dataclass(frozen=True)
class Whole:
    """A gradient in one piece, the value `name`; what a layout in pieces does that has no better way."""

    name: str = field(default="", kw_only=True)

    def keep(self, t: GraphBuilder) -> str:
        """The name under which operators get the pieces joined, and `layout_of` finds this layout."""
        name = t.fresh("grad/pieces")
        t.pieces[name] = replace(self, name=name)
        return name

    def join(self, t: GraphBuilder) -> str:
        """The name of the gradient in one piece."""
        return self.name

    def map(self, t: GraphBuilder, f: Callable[..., str], *values: str) -> str:
        """f(g, *values), where f works on each number of the gradient g and of the values; f(0, ...) is 0."""
        return f(self.name, *values)

    def where_positive(self, t: GraphBuilder, y: str) -> str:
        """g where y > 0, else 0."""
        return self.map(t, lambda g, y: t.mul(g, t.positive(y)), y)

    def repeat(self, t: GraphBuilder, x: str) -> str:
        """The gradient [N, C, 1, 1], or one of the same rank as x, repeated over the positions of x."""
        return t.op("Expand", self.name, t.sizes(x))

    def reshape(self, t: GraphBuilder, x: str) -> str:
        """The gradient in the shape of x."""
        return t.like(self.name, x)

    def with_kernel(self, t: GraphBuilder, weight: str) -> tuple[str, str]:
        """The gradient's channels [N, M, ...], and of a kernel [M, C, ...] the part that they meet."""
        return self.name, weight

    def phases(self) -> Polyphase:
        """As what can be convolved phase by phase; one phase if there is no other way."""
        return Polyphase(1, {(0, 0): self.name}, "")

    def add(self, t: GraphBuilder, others: Sequence[Whole]) -> str:
        """The sum of this gradient and the others."""
        return t.op("Sum", self.name, *(other.name for other in others))


@dataclass(frozen=True)
class Polyphase(Whole):
    """The gradient of `value` as {(row phase, column phase): piece}; phases that are missing are zero.

    Position stride * q + phase of the whole is position q of the piece. Pieces may reach beyond the end of
    the value; `clean`: they are zero there. `masked`: they are zero wherever the value is not positive.
    """

    stride: int
    pieces: dict[tuple[int, int], str]
    value: str
    clean: bool = False
    masked: bool = False

    def map(self, t: GraphBuilder, f: Callable[..., str], *values: str) -> str:
        """f of each phase, unless there are values: they are not in phases."""
        if values or not self.clean:
            return super().map(t, f, *values)
        return replace(self, pieces={at: f(piece) for at, piece in self.pieces.items()}).keep(t)

    def where_positive(self, t: GraphBuilder, y: str) -> str:
        """The same phases, if they are masked already."""
        return self.name if self.clean and self.masked else super().where_positive(t, y)

    def phases(self) -> Polyphase:
        """The same phases, unless what reaches beyond the end would be convolved too."""
        return self if self.clean else super().phases()

    def add(self, t: GraphBuilder, others: Sequence[Whole]) -> str:
        """The sum phase by phase, if all gradients are in phases of the same stride."""
        alike = [other for other in others if isinstance(other, Polyphase) and other.stride == self.stride]
        if len(alike) < len(others):
            return super().add(t, others)
        places = sorted({place for each in (self, *alike) for place in each.pieces})
        sums = {
            place: total(t, [each.pieces[place] for each in (self, *alike) if place in each.pieces])
            for place in places
        }
        return Polyphase(self.stride, sums, self.value).keep(t)

    def join(self, t: GraphBuilder) -> str:
        """The pieces interleaved, and what reaches beyond the end cut off.

        Concat along a new last axis, and along rows: several times faster than DepthToSpace.
        """
        s = self.stride
        some = next(iter(self.pieces.values()))
        zeros = t.op("Expand", 0.0, t.op("Shape", some)) if len(self.pieces) < s * s else ""
        rows = []
        for y in range(s):
            columns = [t.once("Unsqueeze", self.pieces.get((y, x), zeros), t.ints([4])) for x in range(s)]
            rows.append(t.op("Reshape", t.op("Concat", *columns, axis=4), t.ints([0, 0, 0, -1])))
        width = t.shape(self.value)[3]
        if isinstance(width, int):
            sizes = t.ints([0, 0, -1, -(-width // s) * s])
        else:
            end = t.op("Slice", t.op("Shape", rows[0]), t.ints([3]), t.ints([4]))
            sizes = t.op("Concat", t.ints([0, 0, -1]), end, axis=0)
        return fit(t, t.op("Reshape", t.op("Concat", *rows, axis=3), sizes), self.value, s)


@dataclass(frozen=True)
class SparseChannels(Whole):
    """The gradient of `value` on the channels `index`, [N, len(index), ...]; it is zero on all others.

    Of the cotangent of class scores one class counts: the convolution that made them need not see the others.
    """

    index: str
    piece: str
    value: str

    @classmethod
    def of(cls, t: GraphBuilder, cotangent: str, value: str) -> SparseChannels:
        """The channels of a cotangent [N, C] in which any image has a number, and the first: never none."""
        channels = t.shape(value)[1]
        first = np.eye(1, channels if isinstance(channels, int) else 1)[0]
        sizes = t.op("ReduceSum", t.op("Abs", cotangent), t.ints([0]), keepdims=0)
        index = t.op("Reshape", t.op("NonZero", t.add(sizes, t.floats(first))), t.ints([-1]))
        return cls(index, t.op("Gather", cotangent, index, axis=1), value)

    def map(self, t: GraphBuilder, f: Callable[..., str], *values: str) -> str:
        """f of these channels of the gradient and of the values."""
        chosen = [t.op("Gather", value, self.index, axis=1) for value in values]
        return replace(self, piece=f(self.piece, *chosen)).keep(t)

    def repeat(self, t: GraphBuilder, x: str) -> str:
        """These channels, repeated over the positions of x."""
        return replace(self, piece=t.op("Expand", self.piece, map_size(t, x)), value=x).keep(t)

    def reshape(self, t: GraphBuilder, x: str) -> str:
        """These channels [N, len(index), 1, 1], if x has one position; else all of them."""
        if t.shape(x)[2:] != (1, 1):
            return super().reshape(t, x)
        return replace(self, piece=t.op("Unsqueeze", self.piece, t.ints([2, 3])), value=x).keep(t)

    def with_kernel(self, t: GraphBuilder, weight: str) -> tuple[str, str]:
        """These channels, and the rows of the kernel that belong to them."""
        return self.piece, t.op("Gather", weight, self.index, axis=0)

    def join(self, t: GraphBuilder) -> str:
        """All channels: zeros where there is no piece."""
        rank = len(t.shape(self.value))
        index = t.op("Reshape", self.index, t.ints([1, -1] + [1] * (rank - 2)))
        index = t.op("Expand", index, t.op("Shape", self.piece))
        zeros = t.op("Expand", 0.0, t.sizes(self.value))
        return t.op("ScatterElements", zeros, index, self.piece, axis=1)


def layout_of(t: GraphBuilder, g: str) -> Whole:
    """How the gradient with the name g lies in memory."""
    layout = t.pieces.get(g)
    return layout if isinstance(layout, Whole) else Whole(name=g)


def total(t: GraphBuilder, gradients: Sequence[str]) -> str:
    """The sum of what the consumers of a value sent back; "" if nobody sent anything."""
    if len(gradients) < 2:
        return "".join(gradients)
    first, *others = (layout_of(t, gradient) for gradient in gradients)
    return first.add(t, others)


def map_size(t: GraphBuilder, x: str) -> str:
    """The shape [1, 1, H, W] of x [N, C, H, W], as a tensor."""
    return t.op("Concat", t.ints([1, 1]), t.op("Slice", t.sizes(x), t.ints([2]), t.ints([4])), axis=0)


def fit(t: GraphBuilder, gradient: str, value: str, stride: int) -> str:
    """`gradient` without what reaches beyond the end of `value`, less than `stride` where sizes are known."""
    if all(isinstance(size, int) and size % stride == 0 for size in t.shape(value)[2:]):
        return gradient
    return crop(t, gradient, value)


def crop(t: GraphBuilder, gradient: str, value: str, starts: tuple[int, int] = (0, 0)) -> str:
    """The part of `gradient` that begins at `starts` and has the height and width of `value`."""
    sizes = t.once("Slice", t.sizes(value), t.ints([2]), t.ints([4]))
    ends = t.op("Add", sizes, t.ints(starts)) if any(starts) else sizes
    return t.op("Slice", gradient, t.ints(starts), ends, t.ints([2, 3]))
