"""One vector-Jacobian rule for each ONNX operator.

A rule is `(tape, node, cotangents) -> gradients`: it is given the names of the gradients of the node's
outputs ("" where an output has none), appends nodes to the tape, and returns the names of the gradients of
the node's inputs ("" for an input that has none; inputs past the end of the list have none).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import activation, arithmetic, conv, linear, normalisation, pool, reduce, shape
from .forward import simplify
from .gradients import SparseChannels, total
from .graph_builder import GraphBuilder, Node, ReluRule

Rule = Callable[[GraphBuilder, Node, Sequence[str]], list[str]]

RULES: dict[str, Rule] = {
    **dict.fromkeys(activation.FORMULAS, activation.rule),
    "Add": arithmetic.add,
    "AveragePool": pool.average_pool,
    "BatchNormalization": normalisation.batch_normalization,
    "Cast": shape.same,
    "CastLike": shape.same,
    "Concat": shape.concat,
    "Conv": conv.conv,
    "ConvTranspose": conv.conv_transpose,
    "Div": arithmetic.div,
    "Dropout": shape.same,
    "Expand": arithmetic.expand,
    "Flatten": shape.reshape,
    "Gather": shape.pick,
    "GatherElements": shape.pick,
    "Gemm": linear.gemm,
    "GlobalAveragePool": pool.global_average_pool,
    "GlobalMaxPool": pool.global_max_pool,
    "Identity": shape.same,
    "LRN": normalisation.local_response,
    "MatMul": linear.matmul,
    "MaxPool": pool.max_pool,
    "Mul": arithmetic.mul,
    "Pad": shape.pad,
    "Pow": arithmetic.power,
    "ReduceMean": reduce.reduce_mean,
    "ReduceSum": reduce.reduce_sum,
    "Reshape": shape.reshape,
    "Slice": shape.pick,
    "Split": shape.split,
    "Squeeze": shape.reshape,
    "Sub": arithmetic.sub,
    "Sum": arithmetic.add,
    "Transpose": shape.transpose,
    "Unsqueeze": shape.reshape,
    "Where": arithmetic.where,
}

__all__ = ["RULES", "GraphBuilder", "Node", "ReluRule", "Rule", "SparseChannels", "simplify", "total"]
