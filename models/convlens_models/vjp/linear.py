"""Rules of the matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .arithmetic import unbroadcast
from .graph_builder import GraphBuilder, Node
from .operator import Operator


def gemm(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """y = alpha a' b' + beta c: alpha g b'^T and alpha a'^T g, turned as a and b were; beta g, summed."""
    g, (a, b) = cotangents[0], node.inputs[:2]
    turn_a, turn_b, alpha = node.get("transA", 0), node.get("transB", 0), node.get("alpha", 1.0)
    gradients = ["", "", ""][: len(node.inputs)]
    if node.wants(0):
        left, right, turns = (b, g, (turn_b, 1)) if turn_a else (g, b, (0, 1 - turn_b))
        gradients[0] = t.op("Gemm", left, right, alpha=alpha, transA=turns[0], transB=turns[1])
    if node.wants(1):
        left, right, turns = (g, a, (1, turn_a)) if turn_b else (a, g, (1 - turn_a, 0))
        gradients[1] = t.op("Gemm", left, right, alpha=alpha, transA=turns[0], transB=turns[1])
    if node.wants(2):
        gradients[2] = unbroadcast(t, t.mul(g, node.get("beta", 1.0)), node.outputs[0], node.inputs[2])
    return gradients


def matmul(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """g b^T and a^T g, summed over batch dimensions that were broadcast."""
    g, (a, b) = cotangents[0], node.inputs
    if min(len(t.shape(a)), len(t.shape(b))) < 2:
        raise node.refuse("an operand is a vector; only matrices have a rule")
    gradients = ["", ""]
    if node.wants(0):
        gradients[0] = _sum_batches(t, t.op("MatMul", g, _turned(t, b)), node.outputs[0], a)
    if node.wants(1):
        gradients[1] = _sum_batches(t, t.op("MatMul", _turned(t, a), g), node.outputs[0], b)
    return gradients


def _turned(t: GraphBuilder, value: str) -> str:
    rank = len(t.shape(value))
    return t.once("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _sum_batches(t: GraphBuilder, g: str, whole: str, part: str) -> str:
    """`unbroadcast` over the dimensions before the matrix."""
    to, like = t.shape(whole)[:-2], t.shape(part)[:-2]
    lead = len(to) - len(like)
    if lead:
        g = t.op("ReduceSum", g, t.ints(list(range(lead))), keepdims=0)
    axes = [i for i, (a, b) in enumerate(zip(to[lead:], like, strict=True)) if b == 1 and a != 1]
    return t.op("ReduceSum", g, t.ints(axes), keepdims=1) if axes else g


OPERATORS: Final = {
    "Gemm": Operator(gemm, kernel=True, kind="Linear"),
    "MatMul": Operator(matmul, kernel=True, kind="Linear"),
}
