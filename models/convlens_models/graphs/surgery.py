"""Small surgery on ONNX graphs: cut at values, fix sizes. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_models.graphs.fold import SHAPES, captured, fold
from convlens_models.manifest import INPUT
from convlens_models.vjp.graph_builder import GraphBuilder, Node, ReluRule
from convlens_models.vjp.rectifiers import from_zero

HIDDEN: Final = "convlens: a step that no file has"
"""In the doc string of a node: what it makes is no layer."""
FACTOR: Final = "average_pool_factor"
LEAST: Final = "average_pool_least"
LARGE: Final = 1 << 16
"""Bytes of a tensor from which on the inference of shapes does without its numbers."""
SLOPE: Final = "leaky_slope"
LEAST_SQUARE: Final = 1e-12
"""Mean square of a window, below which its root has no gradient: that of zero is infinite."""


def inferred(model: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
    """`model` with the shapes of its values, so far as they follow; of large tensors without their numbers.

    What has more than 2 GB cannot be written as one message, as the inference of shapes needs it.

    Raises:
        onnx.shape_inference.InferenceError: `options` ask for strictness, and a node contradicts its inputs.
    """
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.functions.extend(model.functions)
    graph = model.graph
    light.graph.name = graph.name or "graph"
    for name in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(light.graph, name).extend(getattr(graph, name))
    light.graph.initializer.extend(map(outlined, graph.initializer))
    found: onnx.ModelProto = onnx.shape_inference.infer_shapes(light, **options)
    return found


def outlined(tensor: TensorProto) -> TensorProto:
    """`tensor`; of a large one name, type and sizes alone, as if its numbers lay elsewhere."""
    if len(tensor.raw_data) <= LARGE:
        return tensor
    outline = TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
    )
    outline.external_data.add(key="location", value="elsewhere")
    return outline


def cut(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of `model` that computes the values `outputs`, which become its outputs, in that order.

    Raises:
        InvalidArgument: no node of the graph makes one of the values.
    """
    graph = model.graph
    makers = {value: node for node in graph.node for value in node.output}
    if unknown := [name for name in outputs if name not in makers]:
        raise InvalidArgument.of("outputs", unknown[0], "a value that a node of the graph makes")
    needed = ancestors(graph, outputs)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    known = {info.name: info for info in (*graph.value_info, *graph.output)}
    replace(part.graph.node, [node for node in graph.node if needed.intersection(node.output)])
    replace(part.graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    replace(part.graph.value_info, [info for info in graph.value_info if info.name in needed - set(outputs)])
    replace(
        part.graph.output,
        [known.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    return part


def ancestors(graph: onnx.GraphProto, values: Sequence[str]) -> set[str]:
    """The values that `values` are computed of, and they themselves."""
    needed = set(values)
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input, captured(node))
    return needed


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that `model` uses; 0 if it does not say."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def opened(model: onnx.ModelProto, source: str = INPUT) -> onnx.ModelProto:
    """`model` with the height and width of its input `source` open, and no shape of other values declared.

    Its nodes are as they were: those that hold a size fail at another.
    """
    free = onnx.ModelProto()
    free.CopyFrom(model)
    del free.graph.value_info[:]
    for info in free.graph.output:
        info.type.tensor_type.ClearField("shape")
    image = next(info for info in free.graph.input if info.name == source)
    for dim, name in zip(image.type.tensor_type.shape.dim[2:], ("H", "W"), strict=True):
        dim.dim_param = name
    return free


def static(
    model: onnx.ModelProto, shape: tuple[int | None, int, int], strict: bool = True
) -> onnx.ModelProto:
    """`model` with batch (None: any), height and width fixed, and the shape of every value worked out.

    Args:
        strict: raise where a node cannot have these shapes, rather than leave what follows from it open.
    """
    fixed = opened(model)
    image = next(info for info in fixed.graph.input if info.name == INPUT)
    batch, height, width = shape
    channels = image.type.tensor_type.shape.dim[1].dim_value
    sizes = ("N" if batch is None else batch, channels, height, width)
    image.CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, sizes))
    if any(node.op_type in SHAPES for node in fixed.graph.node):
        fold(fixed)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(fixed, strict_mode=strict, data_prop=True)
    return inferred


def flattened(model: onnx.ModelProto, values: Sequence[str], name: str) -> onnx.ModelProto:
    """`model` with one more value, `name` (N, D): all of `values` (N, ...), one after the other.

    Its gradient for a cotangent is the sum of theirs, from one pass.
    """
    part = cut(model, values)
    rows = [f"{value}/row" for value in values]
    flatten = [
        helper.make_node("Flatten", [value], [row], name=row, axis=1)
        for value, row in zip(values, rows, strict=True)
    ]
    part.graph.node.extend([*flatten, helper.make_node("Concat", rows, [name], name=name, axis=1)])
    part.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return part


def leaky(model: onnx.ModelProto, slope: float) -> onnx.ModelProto:
    """`model` whose ReLUs and ReLU6 let `slope` of what they cut off through."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    part.graph.initializer.append(numpy_helper.from_array(np.array(slope, np.float32), SLOPE))
    known, nodes = GraphBuilder(part.graph, ReluRule.GRADIENT), list[onnx.NodeProto]()
    for node in part.graph.node:
        clips = node.op_type == "Clip" and from_zero(known, Node(node))
        if node.op_type == "Relu":
            node.op_type = "LeakyRelu"
            node.attribute.append(helper.make_attribute("alpha", slope))
        nodes += _leaky_clip(node) if clips else [node]
    replace(part.graph.node, nodes)
    return part


def _leaky_clip(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """c + slope (x - c) of what a Clip makes of x."""
    x, y = node.input[0], node.output[0]
    node.output[0], rest, part = (f"{y}/{name}" for name in ("clipped", "rest", "leak"))
    return [
        node,
        helper.make_node("Sub", [x, node.output[0]], [rest], name=rest),
        helper.make_node("Mul", [rest, SLOPE], [part], name=part),
        helper.make_node("Add", [node.output[0], part], [y], name=y),
    ]


def average_pooled(model: onnx.ModelProto, factor: float = 1.0, power: int = 1) -> onnx.ModelProto:
    """`model` whose max pools take the average, times `factor`; what lies outside the map does not count.

    With `power` 2 they take the root mean square.

    Raises:
        FailedPrecondition: a max pool has dilations, or tells where its maxima were.
    """
    part = onnx.ModelProto()
    part.CopyFrom(model)
    nodes = list[onnx.NodeProto]()
    for node in part.graph.node:
        nodes += [node] if node.op_type != "MaxPool" else _averaging(node, power)
    for name, value in ((FACTOR, factor), (LEAST, LEAST_SQUARE)):
        part.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    replace(part.graph.node, nodes)
    return part


def _averaging(node: onnx.NodeProto, power: int) -> list[onnx.NodeProto]:
    """An average pool with the windows of a max pool."""
    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    options.pop("storage_order", None)
    if set(options.pop("dilations", [1])) != {1} or len(node.output) > 1:
        why = "has dilations, or tells where its maxima were: no average pool can take its place"
        raise FailedPrecondition(f"max pool {node.name or node.output[0]} {why}")
    value, (source,) = node.output[0], node.input
    chain: list[tuple[str, list[str], dict[str, Any]]] = [("AveragePool", [], options), ("Mul", [FACTOR], {})]
    if power == 2:
        chain[:1] = [("Mul", [source], {}), chain[0], ("Clip", [LEAST], {}), ("Sqrt", [], {})]
    nodes = list[onnx.NodeProto]()
    for place, (kind, others, attributes) in enumerate(chain, 1):
        name = value if place == len(chain) else f"{value}/{kind}"
        nodes.append(helper.make_node(kind, [source, *others], [name], name=name, **attributes))
        source = name
    return nodes


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the values that the graph declares; unknown extents are 0."""
    infos = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim) for info in infos}


def hidden(node: onnx.NodeProto) -> onnx.NodeProto:
    """`node`, whose values are then no layers."""
    node.doc_string = HIDDEN
    return node


def replace(field: Any, items: Iterable[Any]) -> None:
    """Make `items` all that the repeated field of a protobuf message holds."""
    items = list(items)
    del field[:]
    field.extend(items)
