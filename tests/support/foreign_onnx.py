"""ONNX classifiers as other people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5


def constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    values = np.random.default_rng([seed, len(name)]).normal(0, 0.3, shape)
    return constant(name, values.astype(np.float32))


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"node of {output}", **attributes)


def output(name: str, rank: int, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, [f"{name}.{axis}" for axis in range(rank)])


def classifier(
    middle: list[onnx.NodeProto] | None = None,
    constants: list[onnx.TensorProto] | None = None,
    *,
    size: tuple[int | str, ...] = (1, 3, 32, 32),
    dtype: int = TensorProto.FLOAT,
    end: str = "Softmax",
    opset: int = 17,
    source: str = "data",
) -> onnx.ModelProto:
    """Convolution, ReLU, what `middle` makes of "relu" into "middle", global pool, flatten, linear, `end`."""
    nodes = [
        node("Conv", [source, "conv.weight", "conv.bias"], "conv", pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["conv"], "relu"),
        *(middle or [node("MaxPool", ["relu"], "middle", kernel_shape=[2, 2], strides=[2, 2])]),
        node("GlobalAveragePool", ["middle"], "pool"),
        node("Flatten", ["pool"], "flat"),
        node("Gemm", ["flat", "fc.weight", "fc.bias"], "fc", transB=1),
    ]
    if end:
        nodes.append(node(end, ["fc"], "end", **({"axis": 1} if "oftmax" in end else {})))
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(source, dtype, size)],
        [output("end" if end else "fc", 2, dtype)],
        [
            weight("conv.weight", 8, 3, 3, 3),
            weight("conv.bias", 8),
            weight("fc.weight", CLASSES, 8),
            weight("fc.bias", CLASSES),
            *(constants or []),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "foreign.onnx"
    onnx.save(model, path)
    return path
