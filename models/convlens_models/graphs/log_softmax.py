"""LogSoftmax in ONNX graphs, right to float32 also where one class has nearly all of the probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

NUMBERS: Final = {"nothing": 0.0, "one": 1.0, "half": 0.5}


def refined(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` whose LogSoftmax gives its largest value as log(1 - q), q the sum of all other probabilities.

    Runtimes compute x - max - log(sum of exp(x - max)), which is 0 for every q below 6e-8. Above one half
    the value stays as it is. To be applied after differentiation: the new operators have no rules.
    """
    if not any(node.op_type == "LogSoftmax" for node in model.graph.node):
        return model
    new = onnx.ModelProto()
    new.CopyFrom(model)
    nodes = [part for node in model.graph.node for part in _parts(node)]
    del new.graph.node[:]
    new.graph.node.extend(nodes)
    new.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), _constant(name))
        for name, value in NUMBERS.items()
    )
    return new


def _parts(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if node.op_type != "LogSoftmax":
        return [node]
    (x,), (y,) = node.input, node.output
    axis = next((item.i for item in node.attribute if item.name == "axis"), -1)
    nodes: list[onnx.NodeProto] = []

    def op(kind: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        name = to or f"{y}/refined.{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    plain = op("LogSoftmax", x, axis=axis)
    largest = op("ArgMax", x, axis=axis, keepdims=1)
    value = op("GatherElements", plain, largest, axis=axis)
    nothing = op("Mul", value, _constant("nothing"))
    others = op("ScatterElements", op("Exp", plain), largest, nothing, axis=axis)
    q = op("ReduceSum", others, op("Constant", value_ints=[axis]), keepdims=1)
    exact = _log_of_one_minus(op, q)
    chosen = op("Where", op("Less", q, _constant("half")), exact, value)
    op("ScatterElements", plain, largest, chosen, to=y, axis=axis)
    return nodes


def _log_of_one_minus(op: Callable[..., str], q: str) -> str:
    """log(1 - q) as log(u) - ((u - 1) + q) / u, u = 1 - q rounded: the second term is what rounding took."""
    u = op("Sub", _constant("one"), q)
    lost = op("Add", op("Sub", u, _constant("one")), q)
    return op("Sub", op("Log", u), op("Div", lost, u))


def _constant(name: str) -> str:
    return f"log_softmax/{name}"
