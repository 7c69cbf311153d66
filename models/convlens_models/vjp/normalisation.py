"""Rules of the normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .fields import EVERYTHING, Field, pointwise
from .graph_builder import GraphBuilder, Node
from .operator import Operator
from .reduce import mean


def batch_normalization(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """At inference: g scale / sqrt(variance + epsilon), per channel.

    Mean and variance may be the image's own, as in norms that are written by hand: y falls with the mean by
    that factor, and with the variance by (y - bias) / 2 (variance + epsilon).
    """
    if node.get("training_mode", 0):
        raise node.refuse("it is in training mode")
    if node.wants(1) or node.wants(2):
        raise node.refuse("its scale or bias depends on the image")
    (x, scale, bias, _, variance), g = node.inputs, cotangents[0]
    spread = t.add(variance, node.get("epsilon", 1e-5))
    rank = len(t.shape(x))
    lift, others = t.ints([-1] + [1] * (rank - 2)), t.ints([0, *range(2, rank)])
    through = t.mul(g, t.op("Reshape", t.div(scale, t.op("Sqrt", spread)), lift))
    of_mean = of_variance = ""
    if node.wants(3):
        of_mean = t.op("Neg", t.op("ReduceSum", through, others, keepdims=0))
    if node.wants(4):
        moved = t.mul(g, t.sub(node.outputs[0], t.op("Reshape", bias, lift)))
        of_variance = t.div(t.op("ReduceSum", moved, others, keepdims=0), t.mul(spread, -2.0))
    return [through, "", "", of_mean, of_variance]


def layer_normalization(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Ba, Kiros, Hinton 2016, arXiv:1607.06450: over all axes from `axis` on."""
    _refuse_moving_scale(node)
    if any(cotangents[1:]):
        raise node.refuse("its mean or deviation is used")
    x, scale = node.inputs[:2]
    return [_standardised(t, x, t.mul(cotangents[0], scale), list(_normalised(t, node)), node)]


def instance_normalization(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Ulyanov, Vedaldi, Lempitsky 2016, arXiv:1607.08022: over all positions of each channel."""
    _refuse_moving_scale(node)
    x, scale = node.inputs[:2]
    rank = len(t.shape(x))
    g = t.mul(cotangents[0], _by_channel(t, scale, rank))
    return [_standardised(t, x, g, list(range(2, rank)), node)]


def _standardised(t: GraphBuilder, x: str, g: str, axes: list[int], node: Node) -> str:
    """Of z = (x - mean) / deviation over the axes: (g - mean(g) - z mean(g z)) / deviation."""

    def centred(value: str) -> str:
        return t.sub(value, mean(t, value, axes))

    apart = centred(x)
    variance = mean(t, t.mul(apart, apart), axes)
    deviation = t.op("Sqrt", t.add(variance, node.get("epsilon", 1e-5)))
    z = t.div(apart, deviation)
    return t.div(t.sub(centred(g), t.mul(z, mean(t, t.mul(g, z), axes))), deviation)


def _by_channel(t: GraphBuilder, scale: str, rank: int) -> str:
    return t.op("Reshape", scale, t.ints([-1] + [1] * (rank - 2)))


def _refuse_moving_scale(node: Node) -> None:
    if node.wants(1) or node.wants(2):
        raise node.refuse("the scale or the bias depends on the image")


def _normalised(t: GraphBuilder, node: Node) -> range:
    rank = len(t.shape(node.inputs[0]))
    return range(node.get("axis", -1) % rank, rank)


def layer_sees(t: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """All along the axes that are normalised; along the others that position alone."""
    across = len(t.shape(node.inputs[0])) + field.axis in _normalised(t, node)
    return EVERYTHING if index or across else field


def local_response(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """LRN (Krizhevsky et al., 2012): y = x d^-beta, d = bias + alpha/size * (sum of x^2 over near channels).

    g d^-beta - 2 alpha beta/size * x * (sum of g y / d over near channels); ONNX Runtime has odd sizes only.
    """
    (x,), (y,), g, size = node.inputs, node.outputs, cotangents[0], node.get("size")
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    squares = _channel_sum(t, t.mul(x, x), x, size)
    d = t.add(t.mul(squares, alpha / size), bias)
    direct = t.mul(g, t.op("Pow", d, -beta))
    crossed = _channel_sum(t, t.div(t.mul(g, y), d), x, size)
    return [t.sub(direct, t.mul(t.mul(x, 2 * alpha * beta / size), crossed))]


def _channel_sum(t: GraphBuilder, value: str, like: str, size: int) -> str:
    """The sum over the `size` channels around each channel."""
    rows = t.op("Reshape", value, t.ints([0, 1, t.shape(like)[1], -1]))  # type: ignore[list-item]
    mean = t.op(
        "AveragePool", rows, kernel_shape=[size, 1], pads=[size // 2, 0, size // 2, 0], count_include_pad=1
    )
    return t.like(t.mul(mean, float(size)), like)


OPERATORS: Final = {
    "BatchNormalization": Operator(batch_normalization, pointwise),
    "InstanceNormalization": Operator(instance_normalization),
    "LayerNormalization": Operator(layer_normalization, layer_sees),
    "LRN": Operator(local_response, pointwise),
}
