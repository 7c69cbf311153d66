"""Operators written out as others, which have rules: by ONNX's own definitions, or by those here.

ONNX's GroupNormalization takes the variance as E[x^2] - E[x]^2, which is lost where the mean is large; its
shapes and those of RMSNormalization are not inferred; of the others there is no definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import onnx
from onnx import TensorProto, defs, helper, inliner

from convlens_models.graphs import surgery
from convlens_models.graphs.grid_sample import grid_sample
from convlens_models.vjp import OPERATORS
from convlens_models.vjp.graph_builder import GraphBuilder, Node, ReluRule
from convlens_models.vjp.reduce import SMALLEST

FLOATS: Final = (
    TensorProto.UNDEFINED,
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
)
STEM: Final = "inner"
"""Begins the names of the values inside of what is written out."""


def group_normalization(t: GraphBuilder, node: Node) -> str:
    """Wu, He 2018, arXiv:1803.08494: groups as channels of an instance normalisation."""
    x, scale, bias = node.inputs
    groups = node.get("num_groups")
    rows = t.op("Reshape", x, t.ints([0, groups, -1]))
    unit, origin = t.floats([1.0] * groups), t.floats([0.0] * groups)
    standard = t.op("InstanceNormalization", rows, unit, origin, epsilon=node.get("epsilon", 1e-5))
    channels = t.op("Concat", t.ints([0]), t.op("Shape", scale), t.ints([-1]), axis=0)
    apart = t.op("Reshape", standard, channels)
    factor, term = (t.op("Unsqueeze", value, t.ints([1])) for value in (scale, bias))
    return t.op("Reshape", t.add(t.mul(apart, factor), term), t.op("Shape", x))


def rms_normalization(t: GraphBuilder, node: Node) -> str:
    """Zhang, Sennrich 2019, arXiv:1910.07467: x over the root of the mean of its squares, from `axis` on."""
    (x, scale), axis = node.inputs, node.get("axis", -1)
    axes = list(range(axis, 0 if axis < 0 else len(t.shape(x))))
    squares = t.op("ReduceMean", t.mul(x, x), t.ints(axes), keepdims=1)
    return t.mul(t.div(x, t.op("Sqrt", t.add(squares, node.get("epsilon", 1e-5)))), scale)


def lp_normalization(t: GraphBuilder, node: Node) -> str:
    """x over its norm along `axis`, of order 1 or 2; 0 where that is 0."""
    (x,), axis = node.inputs, t.ints([node.get("axis", -1)])
    if node.get("p", 2) == 1:
        norm = t.op("ReduceSum", t.op("Abs", x), axis, keepdims=1)
    else:
        norm = t.op("Sqrt", t.op("ReduceSum", t.mul(x, x), axis, keepdims=1))
    return t.div(x, t.op("Max", norm, SMALLEST))


Body = Callable[[GraphBuilder, Node], str]
BODIES: Final[dict[str, Body]] = {
    "GridSample": grid_sample,
    "GroupNormalization": group_normalization,
    "LpNormalization": lp_normalization,
    "RMSNormalization": rms_normalization,
}


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` without the operators that need a rule and have none, where they can be written as others."""
    missing = {node.op_type for node in _reached(model) if _is_onnx(node)} - OPERATORS.keys()
    if missing & BODIES.keys():
        model = _by_bodies(model)
    defined = [
        kind for kind in sorted(missing - BODIES.keys()) if _has_definition(kind, surgery.opset(model))
    ]
    if not defined:
        return model
    kinds = [("", kind) for kind in defined]
    written: onnx.ModelProto = inliner.inline_selected_functions(
        _typed(model), kinds, inline_schema_functions=True
    )
    return written


def _reached(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that gradients would pass: not those of sizes, as Range, which ONNX defines by a loop."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    infos = (*inferred.value_info, *inferred.output)
    kinds = {info.name: info.type.tensor_type.elem_type for info in infos}
    weights, nodes = {tensor.name for tensor in inferred.initializer}, []
    values = {info.name for info in inferred.input} - weights
    for node in model.graph.node:
        floats = [value for value in node.output if value and kinds.get(value, FLOATS[0]) in FLOATS]
        if floats and not values.isdisjoint(node.input):
            nodes.append(node)
            values.update(floats)
    return nodes


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the types of its values, and of its constants: definitions depend on them."""
    new: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)
    listed = {info.name for info in (*new.graph.value_info, *new.graph.input)}
    new.graph.value_info.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in new.graph.initializer
        if tensor.name not in listed
    )
    return new


def _is_onnx(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


def _by_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    new: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)
    builder = GraphBuilder(new.graph, ReluRule.GRADIENT, STEM)
    builder.nodes = []
    for node in new.graph.node:
        body = BODIES.get(node.op_type) if _is_onnx(node) else None
        if body is None:
            builder.nodes.append(node)
        else:
            body(builder, Node(node))
            builder.nodes[-1].output[0], builder.nodes[-1].name = node.output[0], node.name
    surgery.replace(new.graph.node, builder.nodes)
    new.graph.initializer.extend(builder.initializers)
    return new


def _has_definition(kind: str, version: int) -> bool:
    try:
        schema = defs.get_schema(kind, version)
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
