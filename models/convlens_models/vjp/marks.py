"""Nodes of an import whose gradient is not that of their operator; a mark in the doc string says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from onnx import NodeProto

from .fields import everything, pointwise
from .graph_builder import GraphBuilder, Node
from .operator import Operator

STRAIGHT: Final = "convlens: straight through"
RANGE: Final = "convlens: range"
DETACHED: Final = "convlens: detached"


def straight(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g, as if the numbers were not rounded (Bengio et al., 2013)."""
    return [cotangents[0]]


def within(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g where the range of a quantised number holds, by every ReLU rule: it is no activation."""
    x, low, high = node.inputs
    return [t.mul(t.mul(cotangents[0], t.positive(t.sub(x, low))), t.positive(t.sub(high, x)))]


def nothing(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """A scale that follows from the image counts as a constant."""
    return ["" for _ in node.inputs]


MARKED: Final = {
    STRAIGHT: Operator(straight, pointwise, by_channel=True),
    RANGE: Operator(within, pointwise),
    DETACHED: Operator(nothing, everything),
}


def mark(node: NodeProto, kind: str) -> NodeProto:
    """`node`, whose gradient is that of the mark `kind`; what it makes is no layer."""
    node.doc_string = kind
    return node
