"""Gradients that stay in pieces for as long as nobody needs them whole.

Putting pieces together costs a pass over memory outside ONNX Runtime's blocked layout, and often the next
rule takes them apart again. On the tape they have a name like any value; an operator gets them joined.
"""

from __future__ import annotations

from dataclasses import dataclass

from .tape import Tape


@dataclass(frozen=True)
class Phases:
    """The gradient of `value` as {(phase y, phase x): piece}; phases that are missing are zero.

    Position stride * q + phase of the whole is position q of the piece. Pieces may reach beyond the end of
    the value; `clean`: they are zero there. `masked`: they are zero wherever the value is not positive.
    """

    stride: int
    pieces: dict[tuple[int, int], str]
    value: str
    clean: bool = False
    masked: bool = False

    def join(self, t: Tape) -> str:
        """The pieces interleaved, and what reaches beyond the end cut off."""
        s = self.stride
        zeros = ""
        if len(self.pieces) < s * s:
            some = next(iter(self.pieces.values()))
            zeros = t.op("Expand", t.floats(0.0), t.op("Shape", some))
        pieces = [self.pieces.get((y, x), zeros) for y in range(s) for x in range(s)]
        joined = t.op("DepthToSpace", t.op("Concat", *pieces, axis=1), blocksize=s, mode="DCR")
        return fit(t, joined, self.value, s)


def total(t: Tape, gradients: list[str]) -> str:
    """The sum of what the consumers of a value sent back; "" if nobody sent anything."""
    if len(gradients) < 2:
        return "".join(gradients)
    kinds = [t.pieces.get(gradient) for gradient in gradients]
    phases = [kind for kind in kinds if isinstance(kind, Phases)]
    if len(phases) == len(kinds) and len({phase.stride for phase in phases}) == 1:
        keys = sorted({key for phase in phases for key in phase.pieces})
        sums = {key: total(t, [p.pieces[key] for p in phases if key in p.pieces]) for key in keys}
        return t.keep(Phases(phases[0].stride, sums, phases[0].value))
    return t.op("Sum", *gradients)


def fit(t: Tape, gradient: str, value: str, stride: int) -> str:
    """`gradient` without what reaches beyond the end of `value`, less than `stride` where sizes are known."""
    if all(isinstance(size, int) and size % stride == 0 for size in t.shape(value)[2:]):
        return gradient
    return crop(t, gradient, value)


def crop(t: Tape, gradient: str, value: str, starts: tuple[int, int] = (0, 0)) -> str:
    """The part of `gradient` that begins at `starts` and has the height and width of `value`."""
    sizes = t.once("Slice", t.sizes(value), t.ints([2]), t.ints([4]))
    ends = t.op("Add", sizes, t.ints(starts)) if any(starts) else sizes
    return t.op("Slice", gradient, t.ints(starts), ends, t.ints([2, 3]))
