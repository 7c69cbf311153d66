"""Rules of the largest and the smallest of several numbers.

Equal ones share g in equal parts, as in PyTorch's `maximum`, `minimum`, `amax` and `amin`; TopK sends all of
it to the one that it names. (The poolings send it to the first: see `pool`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce as fold
from typing import Final

from onnx import TensorProto

from .arithmetic import operands
from .fields import across_axis, pointwise
from .graph_builder import GraphBuilder, Node
from .operator import Operator
from .rectifiers import from_zero, rectifier
from .reduce import lifted, over_axes, sees


def extreme(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Max and Min of operands: g to the one that y is."""
    hits = [_is(t, operand, node.outputs[0]) for operand in node.inputs]
    part = t.div(cotangents[0], fold(t.add, hits))
    return operands(t, node, [t.mul(part, hit) if node.wants(i) else "" for i, hit in enumerate(hits)])


def reduce_extreme(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """ReduceMax and ReduceMin: g to where x is y."""
    hits = _is(t, node.inputs[0], lifted(t, node, node.outputs[0]))
    return [t.mul(hits, t.div(lifted(t, node, cotangents[0]), over_axes(t, node, "ReduceSum", hits)))]


def top_k(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g at the indices that the node gives."""
    index = node.outputs[1] if len(node.outputs) > 1 else ""
    if not index:
        raise node.refuse("its indices have no name")
    zeros = t.op("Expand", 0.0, t.sizes(node.inputs[0]))
    return [t.op("ScatterElements", zeros, index, cotangents[0], axis=node.get("axis", -1)), ""]


def _is(t: GraphBuilder, value: str, y: str) -> str:
    """1 where the value is y, else 0."""
    return t.op("Cast", t.op("Equal", value, y), to=TensorProto.FLOAT)


OPERATORS: Final = {
    "Max": rectifier(Operator(extreme, pointwise), from_zero),
    "Min": Operator(extreme, pointwise),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), Operator(reduce_extreme, sees)),
    "TopK": Operator(top_k, across_axis(-1)),
}
