"""Rules of the arithmetic operators; gradients are summed over what was broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .fields import pointwise
from .graph_builder import GraphBuilder, Node
from .operator import Operator


def add(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Add and Sum: g for every operand."""
    return operands(t, node, [cotangents[0]] * len(node.inputs))


def sub(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g and -g."""
    g = cotangents[0]
    return operands(t, node, [g, t.op("Neg", g) if node.wants(1) else ""])


def mul(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g b and g a."""
    g, (a, b) = cotangents[0], node.inputs
    return operands(t, node, [t.mul(g, b) if node.wants(0) else "", t.mul(g, a) if node.wants(1) else ""])


def mean(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g over the number of operands."""
    return operands(t, node, [t.mul(cotangents[0], 1 / len(node.inputs))] * len(node.inputs))


def div(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g / b and -g y / b."""
    g, b, y = cotangents[0], node.inputs[1], node.outputs[0]
    over = t.div(g, b)
    return operands(t, node, [over, t.op("Neg", t.mul(over, y)) if node.wants(1) else ""])


def power(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g p x^(p-1) for a constant exponent p."""
    if node.wants(1):
        raise node.refuse("the exponent depends on the image")
    x, p = node.inputs
    p = t.op("CastLike", p, x)
    return operands(t, node, [t.mul(cotangents[0], t.mul(p, t.op("Pow", x, t.sub(p, 1.0)))), ""])


def where(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g to the operand that the condition takes, 0 to the other."""
    condition, g, zero = node.inputs[0], cotangents[0], t.floats(0.0)
    sides = [
        "",
        t.op("Where", condition, g, zero) if node.wants(1) else "",
        t.op("Where", condition, zero, g) if node.wants(2) else "",
    ]
    return operands(t, node, sides)


def expand(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g summed over what was repeated."""
    return [unbroadcast(t, cotangents[0], node.outputs[0], node.inputs[0]), ""]


def operands(t: GraphBuilder, node: Node, gradients: list[str]) -> list[str]:
    """The gradients of the operands, of the shape of y, summed to their own shapes."""
    return [
        unbroadcast(t, g, node.outputs[0], operand) if g and node.wants(i) else ""
        for i, (g, operand) in enumerate(zip(gradients, node.inputs, strict=True))
    ]


def unbroadcast(t: GraphBuilder, g: str, whole: str, part: str) -> str:
    """Sum g, of the shape of `whole`, down to the shape of `part`, which was broadcast to it."""
    to, like = t.shape(whole), t.shape(part)
    lead = len(to) - len(like)
    pairs = list(zip(to[lead:], like, strict=True))
    if lead:
        g = t.op("ReduceSum", g, t.ints(list(range(lead))), keepdims=0)
    if all(
        (a == b and a is not None) or (isinstance(a, int) and isinstance(b, int)) or b == 1 for a, b in pairs
    ):
        axes = [i for i, (a, b) in enumerate(pairs) if b == 1 and a != 1]
        return t.op("ReduceSum", g, t.ints(axes), keepdims=1) if axes else g
    # Unnamed sizes: which axes were repeated is only known when the graph runs.
    differs = t.op("Not", t.op("Equal", t.once("Shape", g), t.sizes(part)))
    axes_found = t.op("Reshape", t.op("NonZero", differs), t.ints([-1]))
    return t.op("ReduceSum", g, axes_found, keepdims=1, noop_with_empty_axes=1)


COMPARISONS: Final = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or")
OPERATORS: Final = {
    "Add": Operator(add, pointwise, by_channel=True),
    "Div": Operator(div, pointwise),
    "Expand": Operator(expand, pointwise),
    "Mean": Operator(mean, pointwise),
    "Mul": Operator(mul, pointwise),
    "Pow": Operator(power, pointwise),
    "Sub": Operator(sub, pointwise),
    "Sum": Operator(add, pointwise),
    "Where": Operator(where, pointwise),
    **dict.fromkeys(COMPARISONS, Operator(sees=pointwise)),
}
