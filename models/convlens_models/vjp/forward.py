"""Rewrites of the forward graph that leave its values as they are, and make its gradient cheaper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx
from onnx import helper

from .tape import Node

CHANNELS = (1, -3)  # The axis of an image's channels.


def simplify(graph: onnx.GraphProto) -> None:
    """Apply the rewrites in place; shapes are inferred afterwards."""
    makers = {value: node for node in graph.node for value in node.output}
    uses = Counter(value for node in graph.node for value in node.input)
    uses.update(value.name for value in graph.output)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        rewrite = REWRITES.get(node.op_type)
        nodes.extend((rewrite and rewrite(node, makers, uses)) or [node])
    del graph.node[:]
    graph.node.extend(nodes)


def pool_before_concat(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], _: Counter[str]
) -> list[onnx.NodeProto]:
    """MaxPool(Concat(a, b)) as Concat(MaxPool(a), MaxPool(b)), so that their gradients are never joined."""
    concat = makers.get(node.input[0])
    if concat is None or concat.op_type != "Concat" or len(node.output) > 1:
        return []
    if Node(concat).get("axis") not in CHANNELS:
        return []
    names = [f"{node.output[0]}/part{i}" for i in range(len(concat.input))]
    pools = [
        helper.make_node("MaxPool", [part], [name], name=name, **Node(node).attributes)
        for part, name in zip(concat.input, names, strict=True)
    ]
    return [*pools, helper.make_node("Concat", names, node.output, name=node.name, axis=1)]


Rewrite = Callable[
    [onnx.NodeProto, dict[str, onnx.NodeProto], Counter[str]],
    list[onnx.NodeProto],
]
REWRITES: dict[str, Rewrite] = {"MaxPool": pool_before_concat}
