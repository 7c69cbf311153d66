"""What guided backpropagation and the deconvnet make of activations that pass on what is positive.

With the incoming signal g of y = f(x), and the slope c that f has where it is open (1; the gamma of a SELU,
the alpha of a hard sigmoid):

    gradient         g f'(x)
    guided_backprop  g f'(x) where g > 0 and f'(x) > 0, else 0
    deconvnet        c g where g > 0, else 0

Both papers (Springenberg et al. 2015, arXiv:1412.6806; Zeiler and Fergus 2014, arXiv:1311.2901) define them
for ReLU, whose f'(x) is [x > 0], and say nothing of others; Captum and TorchRay change ReLU alone, and
TorchRay warns that others need more. Here the slope stands in the place of ReLU's mask. Sigmoid, Tanh and
their like are no rectifiers, and send their gradient under every rule.

A rectifier may be several nodes: see `gated`.
"""

from __future__ import annotations

from collections.abc import Sequence

from .graph_builder import GraphBuilder, Node, ReluRule
from .layouts import layout_of
from .operator import Opened, Operator


def always(slope: float = 1.0) -> Opened:
    """Of a kind whose nodes are all rectifiers."""
    return lambda t, node: slope


def by_attribute(name: str, default: float) -> Opened:
    """The slope that an attribute states."""
    return lambda t, node: float(node.get(name, default))


def from_zero(t: GraphBuilder, node: Node) -> float:
    """Clip and Max are rectifiers where 0 is their least value, as in ReLU6."""
    others = [node.input(1)] if node.kind == "Clip" else node.inputs
    constants = [t.constant_of(value) for value in others if value]
    return float(any(value is not None and value.size == 1 and value.item() == 0 for value in constants))


def rectifier(row: Operator, opened: Opened) -> Operator:
    """The row with a gradient that follows the rule of the graph."""
    gradient = row.gradient
    assert gradient

    def rule(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
        if t.rule is ReluRule.GRADIENT or not (slope := opened(t, node)):
            return gradient(t, node, cotangents)
        g = positive_part(t, cotangents[0])
        if t.rule is ReluRule.DECONVNET:
            back = g if slope == 1 else t.mul(g, slope)
            return [back if node.wants(i) else "" for i in range(len(node.inputs))]
        return [positive_part(t, part) if part else "" for part in gradient(t, node, [g])]

    return row._replace(gradient=rule, opened=opened)


def positive_part(t: GraphBuilder, g: str) -> str:
    """g where g > 0, in the pieces that it is in."""
    return layout_of(t, g).map(t, lambda g: t.op("Relu", g))
