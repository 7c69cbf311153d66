"""How far a value sees: its theoretical receptive field along each axis of the image.

Along a path, a window of k positions with dilation d and pad p over positions that lie `step` pixels apart
adds (k - 1) d step pixels and moves the first by -p step (Araujo et al. 2019, doi:10.23915/distill.00021).

A field may be stated too large, never too small. What is not known sees everything.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Final, NamedTuple

from .graph_builder import GraphBuilder, Node


class Field(NamedTuple):
    """Position o of a value sees pixels from first + step * o to last + step * o along one axis of the image.

    Attributes:
        axis: which axis of the value has these positions, counted from the last, -1: broadcasting keeps it.
        first, last: in pixels.
        step: in pixels; a fraction behind an operator that upsamples, 0 where every position sees everything.
    """

    axis: int
    first: Fraction | int = 0
    last: Fraction | int = 0
    step: Fraction | int = 1

    def join(self, other: Field) -> Field:
        """The field of a sum, product or concatenation; everything where the positions do not correspond."""
        if (self.axis, self.step) != (other.axis, other.step):
            return EVERYTHING
        return self._replace(first=min(self.first, other.first), last=max(self.last, other.last))

    def seen_through(self, first: Fraction | int, last: Fraction | int, step: Fraction | int = 1) -> Field:
        """The field of what sees at position o this value's from first + step * o to last + step * o."""
        return self._replace(
            first=self.first + first * self.step, last=self.last + last * self.step, step=self.step * step
        )


EVERYTHING: Final = Field(axis=0, step=0)

Sees = Callable[[GraphBuilder, Node, int, Field], Field]
"""(builder, node, index, field of the input at this index) -> what the node's outputs see through this input.

It is not asked where the input sees everything.
"""


def everything(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """Every position of the output sees all of the image."""
    return EVERYTHING


def pointwise(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """A position of the output sees that position of the input, unless a single one is broadcast to many."""
    before, after = t.shape(node.inputs[index]), t.shape(node.outputs[0])
    same = -field.axis <= len(after) and before[field.axis] == after[field.axis]
    return field if same and isinstance(before[field.axis], int) else EVERYTHING


def across_axis(default: int) -> Sees:
    """Sees all along the attribute `axis`, whose value is `default` if it is left out; else pointwise."""

    def sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
        rank = len(t.shape(node.inputs[index]))
        across = node.get("axis", default) % rank == field.axis % rank
        return EVERYTHING if across else pointwise(t, node, index, field)

    return sees
