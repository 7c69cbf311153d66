"""Slopes of the smooth activations and the functions of one number: what g is multiplied by, of x and y."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from .graph_builder import GraphBuilder, Node

ERF_SLOPE: Final = 2 / math.sqrt(math.pi)  # At 0.
TANH_GELU: Final = (math.sqrt(2 / math.pi), 0.044715)  # Of ONNX and PyTorch alike.

Slope = Callable[[GraphBuilder, Node, str, str], str]


def gelu(t: GraphBuilder, node: Node, x: str, y: str) -> str:
    """Phi(x) + x phi(x); of the tanh form h = (1 + tanh(u)) / 2: h + 2 x h (1 - h) u'."""
    if node.get("approximate", "none") == "none":
        below = t.mul(t.add(t.op("Erf", t.mul(x, math.sqrt(0.5))), 1.0), 0.5)
        density = t.mul(t.op("Exp", t.mul(t.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
        return t.add(below, t.mul(x, density))
    scale, cubic = TANH_GELU
    square = t.mul(x, x)
    twice = t.mul(x, t.add(t.mul(square, 2 * scale * cubic), 2 * scale))
    h = t.op("Sigmoid", twice)
    inner = t.mul(t.add(t.mul(square, 6 * scale * cubic), 2 * scale), x)
    return t.mul(h, t.add(t.mul(inner, t.op("Sigmoid", t.op("Neg", twice))), 1.0))


def mish(t: GraphBuilder, node: Node, x: str, y: str) -> str:
    """w + x (1 - w^2) sigmoid(x), w = tanh(softplus(x))."""
    w = t.op("Tanh", t.op("Softplus", x))
    return t.add(w, t.mul(t.mul(x, t.sub(1.0, t.mul(w, w))), t.op("Sigmoid", x)))


def swish(t: GraphBuilder, node: Node, x: str, y: str) -> str:
    """s + alpha y (1 - s), s = sigmoid(alpha x)."""
    alpha = node.get("alpha", 1.0)
    s = t.op("Sigmoid", t.mul(x, alpha))
    return t.add(s, t.mul(t.mul(y, alpha), t.sub(1.0, s)))


def celu(t: GraphBuilder, node: Node, x: str, y: str) -> str:
    """1 where x > 0, else exp(x / alpha)."""
    return t.op("Exp", t.mul(t.op("Min", x, 0.0), 1 / node.get("alpha", 1.0)))


def softsign(t: GraphBuilder, node: Node, x: str, y: str) -> str:
    """(1 - |y|)^2"""
    rest = t.sub(1.0, t.op("Abs", y))
    return t.mul(rest, rest)


SLOPES: Final[dict[str, Slope]] = {
    "Abs": lambda t, _, x, y: t.op("Sign", x),
    "Celu": celu,
    "Cos": lambda t, _, x, y: t.op("Neg", t.op("Sin", x)),
    "Erf": lambda t, _, x, y: t.mul(t.op("Exp", t.op("Neg", t.mul(x, x))), ERF_SLOPE),
    "Exp": lambda t, _, x, y: y,
    "Gelu": gelu,
    "Mish": mish,
    "Sigmoid": lambda t, _, x, y: t.mul(y, t.sub(1.0, y)),
    "Sin": lambda t, _, x, y: t.op("Cos", x),
    "Softplus": lambda t, _, x, y: t.op("Sigmoid", x),
    "Softsign": softsign,
    "Swish": swish,
    "Tanh": lambda t, _, x, y: t.sub(1.0, t.mul(y, y)),
    "ThresholdedRelu": lambda t, node, x, y: t.positive(t.sub(x, node.get("alpha", 1.0))),
}
"""Of ThresholdedRelu x > alpha, of ReLU-like ones x > 0 counts as open, as in PyTorch."""
STEPS: Final = ("Ceil", "Floor", "Round", "Sign")
"""Constant between their jumps: nothing goes back."""
