"""Gradients that stay in pieces for as long as nobody needs them whole.

Putting pieces together costs a pass over memory outside ONNX Runtime's blocked layout, and often the next
rule takes them apart again. On the tape they have a name like any value; an operator gets them joined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .graph_builder import GraphBuilder


@dataclass(frozen=True)
class Polyphase:
    """The gradient of `value` as {(phase y, phase x): piece}; phases that are missing are zero.

    Position stride * q + phase of the whole is position q of the piece. Pieces may reach beyond the end of
    the value; `clean`: they are zero there. `masked`: they are zero wherever the value is not positive.
    """

    stride: int
    pieces: dict[tuple[int, int], str]
    value: str
    clean: bool = False
    masked: bool = False

    def join(self, t: GraphBuilder) -> str:
        """The pieces interleaved, and what reaches beyond the end cut off.

        Concat along a new last axis, and along rows: several times faster than DepthToSpace.
        """
        s = self.stride
        some = next(iter(self.pieces.values()))
        zeros = t.op("Expand", t.floats(0.0), t.op("Shape", some)) if len(self.pieces) < s * s else ""
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
class SparseChannels:
    """The gradient of `value` on the channels `index`, [N, k, ...]; it is zero on all others.

    Of the cotangent of class scores one class counts: the convolution that made them need not see the others.
    """

    index: str
    piece: str
    value: str

    @classmethod
    def of(cls, t: GraphBuilder, cotangent: str, value: str) -> SparseChannels:
        """The channels of a [N, K] cotangent in which any image has a number, and the first: never none."""
        channels = t.shape(value)[1]
        first = np.eye(1, channels if isinstance(channels, int) else 1)[0]
        sizes = t.op("ReduceSum", t.op("Abs", cotangent), t.ints([0]), keepdims=0)
        index = t.op("Reshape", t.op("NonZero", t.add(sizes, t.floats(first))), t.ints([-1]))
        return cls(index, t.op("Gather", cotangent, index, axis=1), value)

    def on(self, t: GraphBuilder, value: str) -> str:
        """The chosen channels of a value."""
        return t.op("Gather", value, self.index, axis=1)

    def join(self, t: GraphBuilder) -> str:
        """With zeros for the other channels."""
        rank = len(t.shape(self.value))
        index = t.op("Reshape", self.index, t.ints([1, -1] + [1] * (rank - 2)))
        index = t.op("Expand", index, t.op("Shape", self.piece))
        zeros = t.op("Expand", t.floats(0.0), t.sizes(self.value))
        return t.op("ScatterElements", zeros, index, self.piece, axis=1)


def total(t: GraphBuilder, gradients: list[str]) -> str:
    """The sum of what the consumers of a value sent back; "" if nobody sent anything."""
    if len(gradients) < 2:
        return "".join(gradients)
    kinds = [t.pieces.get(gradient) for gradient in gradients]
    phases = [kind for kind in kinds if isinstance(kind, Polyphase)]
    if len(phases) == len(kinds) and len({phase.stride for phase in phases}) == 1:
        keys = sorted({key for phase in phases for key in phase.pieces})
        sums = {key: total(t, [p.pieces[key] for p in phases if key in p.pieces]) for key in keys}
        return t.keep(Polyphase(phases[0].stride, sums, phases[0].value))
    return t.op("Sum", *gradients)


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
