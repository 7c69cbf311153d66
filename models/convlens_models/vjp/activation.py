"""Rules of the activations: one formula each, of the input x, the output y and the incoming gradient g."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from onnx import TensorProto

from .elementary import SLOPES, STEPS, Slope
from .fields import Sees, across_axis, pointwise
from .graph_builder import GraphBuilder, Node, ReluRule
from .layouts import layout_of
from .operator import Opened, Operator
from .rectifiers import always, by_attribute, from_zero, rectifier

SELU_ALPHA: Final = 1.67326319217681884765625
SELU_GAMMA: Final = 1.05070102214813232421875

Formula = Callable[[GraphBuilder, Node, str, str, str], str]


def relu(t: GraphBuilder, _: Node, x: str, y: str, g: str) -> str:
    """g [y > 0] for the gradient, g [g > 0] for a deconvnet, g [g > 0] [y > 0] for guided backpropagation."""
    if t.rule is not ReluRule.GRADIENT:
        g = layout_of(t, g).map(t, lambda g: t.op("Relu", g))
    return g if t.rule is ReluRule.DECONVNET else layout_of(t, g).where_positive(t, y)


def leaky_relu(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """g where x > 0, else alpha g."""
    alpha = node.get("alpha", 0.01)
    return t.mul(g, t.add(t.mul(t.positive(x), 1.0 - alpha), alpha))


def prelu(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """g where x > 0, else slope g."""
    if node.wants(1):
        raise node.refuse("the slope depends on the image")
    slope = node.input(1)
    return t.mul(g, t.add(slope, t.mul(t.positive(x), t.sub(1.0, slope))))


def elu(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """g where x > 0, else g (y + alpha)."""
    inside = t.positive(x)
    return t.mul(g, t.add(inside, t.mul(t.sub(1.0, inside), t.add(y, node.get("alpha", 1.0)))))


def selu(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """gamma g where x > 0, else g (y + alpha gamma)."""
    alpha, gamma = node.get("alpha", SELU_ALPHA), node.get("gamma", SELU_GAMMA)
    inside = t.positive(x)
    outside = t.mul(t.sub(1.0, inside), t.add(y, alpha * gamma))
    return t.mul(g, t.add(t.mul(inside, gamma), outside))


def hard_swish(t: GraphBuilder, _: Node, x: str, y: str, g: str) -> str:
    """g (h + x h') with the hard sigmoid h of slope 1/6."""
    h = t.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    return t.mul(g, t.add(h, t.mul(t.mul(x, 1 / 6), _between(t, h, 0.0, 1.0))))


def clip(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """g where min < x < max; nothing at the bounds, as ReLU6 has it."""
    for index, ends in ((1, (x, node.input(1))), (2, (node.input(2), x))):
        if node.wants(index):
            raise node.refuse("a bound depends on the image")
        if node.input(index):
            g = t.mul(g, t.positive(t.sub(*ends)))
    return g


def softmax(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """y (h - sum(h y)) along the axis, h = g - g of the largest x.

    Subtracting one number from all of g changes nothing but the rounding: where y of the largest is nearly 1,
    what counts is 1 - y, and the sum now has it as the sum of the others.
    """
    h = t.sub(g, t.op("GatherElements", g, _largest(t, node, x), axis=node.get("axis", -1)))
    return t.mul(y, t.sub(h, _sum(t, node, t.mul(h, y))))


def log_softmax(t: GraphBuilder, node: Node, x: str, y: str, g: str) -> str:
    """g - exp(y) sum(g) along the axis; at the largest x minus the sum of all others.

    The gradient sums to 0, and at the largest x 1 - exp(y) would be lost where the network is certain.
    """
    largest, axis = _largest(t, node, x), node.get("axis", -1)
    gradient = t.sub(g, t.mul(t.op("Exp", y), _sum(t, node, g)))
    nothing = t.mul(t.op("Cast", largest, to=TensorProto.FLOAT), 0.0)
    others = t.op("ScatterElements", gradient, largest, nothing, axis=axis)
    rest = t.op("Neg", _sum(t, node, others))
    return t.op("ScatterElements", others, largest, rest, axis=axis)


def _sum(t: GraphBuilder, node: Node, value: str) -> str:
    return t.op("ReduceSum", value, t.ints([node.get("axis", -1)]), keepdims=1)


def _largest(t: GraphBuilder, node: Node, x: str) -> str:
    """Where the largest value along the axis is."""
    return t.once("ArgMax", x, axis=node.get("axis", -1), keepdims=1)


def _between(t: GraphBuilder, value: str, low: float, high: float) -> str:
    return t.mul(t.positive(t.sub(value, low)), t.positive(t.sub(high, value)))


POINTWISE: Final[dict[str, Formula]] = {
    "Clip": clip,
    "Elu": elu,
    "HardSigmoid": lambda t, node, x, y, g: t.mul(g, t.mul(_between(t, y, 0.0, 1.0), node.get("alpha", 0.2))),
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "Log": lambda t, _, x, y, g: t.div(g, x),
    "Neg": lambda t, _, x, y, g: t.op("Neg", g),
    "PRelu": prelu,
    "Reciprocal": lambda t, _, x, y, g: t.op("Neg", t.mul(g, t.mul(y, y))),
    "Selu": selu,
    "Sqrt": lambda t, _, x, y, g: t.div(t.mul(g, 0.5), y),
}


def _row(formula: Formula, sees: Sees = pointwise, by_channel: bool = False) -> Operator:
    def rule(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
        return [formula(t, node, node.inputs[0], node.outputs[0], cotangents[0])]

    return Operator(rule, sees, by_channel)


def _sloped(slope: Slope) -> Operator:
    return _row(lambda t, node, x, y, g: t.mul(g, slope(t, node, x, y)))


ROWS: Final = {
    **{kind: _row(formula) for kind, formula in POINTWISE.items()},
    **{kind: _sloped(slope) for kind, slope in SLOPES.items()},
    **dict.fromkeys(STEPS, _row(lambda *_: "")),
    "LogSoftmax": _row(log_softmax, across_axis(-1)),
    "Relu": _row(relu, by_channel=True)._replace(opened=always()),
    "Softmax": _row(softmax, across_axis(-1)),
}
RECTIFIERS: Final[dict[str, Opened]] = {
    "Celu": always(),
    "Clip": from_zero,
    "Elu": always(),
    "Gelu": always(),
    "HardSigmoid": by_attribute("alpha", 0.2),
    "HardSwish": always(),
    "LeakyRelu": always(),
    "Mish": always(),
    "PRelu": always(),
    "Selu": by_attribute("gamma", SELU_GAMMA),
    "Softplus": always(),
    "Swish": always(),
    "ThresholdedRelu": always(),
}
OPERATORS: Final = {
    kind: rectifier(row, RECTIFIERS[kind]) if kind in RECTIFIERS else row for kind, row in ROWS.items()
}
