"""What is known about an operator of ONNX: one row, which stands beside its rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .fields import Sees, everything
from .graph_builder import GraphBuilder, Node

Rule = Callable[[GraphBuilder, Node, Sequence[str]], list[str]]
"""(builder, node, cotangents) -> gradients.

A rule is given the names of the gradients of the node's outputs ("" where an output has none), appends nodes
to the graph, and returns the names of the gradients of the node's inputs ("" for an input that has none;
inputs past the end of the list have none).
"""

Opened = Callable[[GraphBuilder, Node], float]
"""(builder, node) -> the slope of a rectifier where it is open; 0: the node is none."""


class Operator(NamedTuple):
    """One row of the table of operators.

    Attributes:
        gradient: the vector-Jacobian rule; None: gradients cannot pass.
        sees: how far its outputs see through an input; unless stated, everywhere.
        by_channel: what goes back to a channel follows from the gradient of the same channel of the output,
            and the rule keeps a gradient of few channels (`SparseChannels`) as it is.
        opened: of an activation that guided backpropagation and the deconvnet change.
        kernel: every position of the output is multiplied by all of the second input, its weights.
        kind: what a layer of this operator is called; "": by the operator's name.
    """

    gradient: Rule | None = None
    sees: Sees = everything
    by_channel: bool = False
    opened: Opened | None = None
    kernel: bool = False
    kind: str = ""
