"""Rules of the activations: one formula each, of the input x, the output y and the incoming gradient g."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from onnx import TensorProto

from .gradients import Polyphase, SparseChannels
from .graph_builder import GraphBuilder, Node, ReluRule

Formula = Callable[[GraphBuilder, Node, str, str, str], str]


def relu(t: GraphBuilder, _: Node, x: str, y: str, g: str) -> str:
    """The one rule in which gradient, guided backpropagation and deconvnet differ."""
    pieces = t.pieces.get(g)
    if isinstance(pieces, Polyphase) and pieces.clean and (pieces.masked or t.rule is ReluRule.DECONVNET):
        if t.rule is ReluRule.GRADIENT:
            return g
        clamped = {place: t.op("Relu", piece) for place, piece in pieces.pieces.items()}
        return t.keep(replace(pieces, pieces=clamped))
    if isinstance(pieces, SparseChannels):
        piece = _relu(t, pieces.piece, pieces.on(t, y))
        return t.keep(replace(pieces, piece=piece, value=x))
    return _relu(t, g, y)


def _relu(t: GraphBuilder, g: str, y: str) -> str:
    if t.rule is not ReluRule.GRADIENT:
        g = t.op("Relu", g)
    return g if t.rule is ReluRule.DECONVNET else t.mul(g, t.positive(y))


def leaky_relu(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """G where x > 0, else alpha g."""
    return t.mul(g, _switch(t, x, 1.0, node.get("alpha", 0.01)))


def prelu(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """G where x > 0, else slope g."""
    if node.wants(1):
        raise node.refuse("the slope depends on the image")
    slope = node.input(1)
    return t.mul(g, t.add(slope, t.mul(t.positive(x), t.sub(1.0, slope))))


def elu(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """G where x > 0, else g (y + alpha)."""
    inside = t.positive(x)
    return t.mul(g, t.add(inside, t.mul(t.sub(1.0, inside), t.add(y, node.get("alpha", 1.0)))))


def selu(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """Gamma g where x > 0, else g (y + alpha gamma)."""
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    inside = t.positive(x)
    outside = t.mul(t.sub(1.0, inside), t.add(y, alpha * gamma))
    return t.mul(g, t.add(t.mul(inside, gamma), outside))


def sigmoid(t: GraphBuilder, _: Node, x: str, y: str, g: str) -> str:
    """G y (1 - y)."""
    return t.mul(g, t.mul(y, t.sub(1.0, y)))


def tanh(t: GraphBuilder, _: Node, x: str, y: str, g: str) -> str:
    """G (1 - y^2)."""
    return t.mul(g, t.sub(1.0, t.mul(y, y)))


def softplus(t: GraphBuilder, _: Node, x: str, y: str, g: str) -> str:
    """G sigmoid(x)."""
    return t.mul(g, t.op("Sigmoid", x))


def hard_sigmoid(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """Alpha g where 0 < y < 1."""
    return t.mul(g, t.mul(_between(t, y, 0.0, 1.0), node.get("alpha", 0.2)))


def hard_swish(t: GraphBuilder, _: Node, x: str, y: str, g: str) -> str:
    """G (h + x h') with the hard sigmoid h of slope 1/6."""
    h = t.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    return t.mul(g, t.add(h, t.mul(t.mul(x, 1 / 6), _between(t, h, 0.0, 1.0))))


def clip(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """G where min < x < max; nothing at the bounds, as ReLU6 has it."""
    for index, ends in ((1, (x, node.input(1))), (2, (node.input(2), x))):
        if node.wants(index):
            raise node.refuse("a bound depends on the image")
        if node.input(index):
            g = t.mul(g, t.positive(t.sub(*ends)))
    return g


def softmax(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """Y (h - sum(h y)) along the axis, h = g - g of the largest x.

    Subtracting one number from all of g changes nothing but the rounding: where y of the largest is nearly 1,
    what counts is 1 - y, and the sum now has it as the sum of the others.
    """
    h = t.sub(g, t.op("GatherElements", g, _largest(t, node, x), axis=node.get("axis", -1)))
    return t.mul(y, t.sub(h, _sum(t, node, t.mul(h, y))))


def log_softmax(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """G - exp(y) sum(g) along the axis; at the largest x minus the sum of all others.

    The gradient sums to 0, and at the largest x 1 - exp(y) would be lost where the network is certain.
    """
    largest, axis = _largest(t, node, x), node.get("axis", -1)
    gradient = t.sub(g, t.mul(t.op("Exp", y), _sum(t, node, g)))
    nothing = t.mul(t.op("Cast", largest, to=TensorProto.FLOAT), 0.0)
    others = t.op("ScatterElements", gradient, largest, nothing, axis=axis)
    rest = t.op("Neg", _sum(t, node, others))
    return t.op("ScatterElements", others, largest, rest, axis=axis)


def erf(t: GraphBuilder, _: Node, x: str, y: str, g: str) -> str:
    """G 2/sqrt(pi) exp(-x^2)."""
    return t.mul(g, t.mul(t.op("Exp", t.op("Neg", t.mul(x, x))), 2 / math.sqrt(math.pi)))


def _sum(t: GraphBuilder, node: Node, value: str) -> str:
    return t.op("ReduceSum", value, t.ints([node.get("axis", -1)]), keepdims=1)


def _largest(t: GraphBuilder, node: Node, x: str) -> str:
    """Where the largest value along the axis is."""
    return t.once("ArgMax", x, axis=node.get("axis", -1), keepdims=1)


def _switch(t: GraphBuilder, x: str, positive: float, other: float) -> str:
    return t.add(t.mul(t.positive(x), positive - other), other)


def _between(t: GraphBuilder, value: str, low: float, high: float) -> str:
    return t.mul(t.positive(t.sub(value, low)), t.positive(t.sub(high, value)))


FORMULAS: dict[str, Formula] = {
    "Abs": lambda t, _, x, y, g: t.mul(g, t.op("Sign", x)),
    "Clip": clip,
    "Elu": elu,
    "Erf": erf,
    "Exp": lambda t, _, x, y, g: t.mul(g, y),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "Log": lambda t, _, x, y, g: t.div(g, x),
    "LogSoftmax": log_softmax,
    "Neg": lambda t, _, x, y, g: t.op("Neg", g),
    "PRelu": prelu,
    "Reciprocal": lambda t, _, x, y, g: t.op("Neg", t.mul(g, t.mul(y, y))),
    "Relu": relu,
    "Selu": selu,
    "Sigmoid": sigmoid,
    "Softmax": softmax,
    "Softplus": softplus,
    "Sqrt": lambda t, _, x, y, g: t.div(t.mul(g, 0.5), y),
    "Tanh": tanh,
}


def rule(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """The rule of every operator in FORMULAS."""
    return [FORMULAS[node.kind](t, node, node.inputs[0], node.outputs[0], cotangents[0])]
