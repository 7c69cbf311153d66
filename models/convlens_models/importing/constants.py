"""What a graph computes of constants alone, computed: weights are initializers, and branches are decided."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from convlens.errors import InvalidArgument
from convlens_models.graphs import surgery
from convlens_models.importing.upgrade import SUBGRAPHS
from convlens_models.runtime import ort

VALUES: Final[dict[str, Any]] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": str,
    "value_strings": str,
}
"""The attributes that may hold the value of a Constant beside "value", and the type of their numbers."""
RANDOM: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
SHAPES: Final = ("Shape", "Size")
PROBES: Final = ((1, 64, 64), (2, 64, 64), (3, 96, 64), (1, 81, 113))
"""Batch, height and width at which a branch must be the same, where the graph leaves them open."""


def fold(model: onnx.ModelProto) -> list[str]:
    """Compute what follows from constants, and put the taken branch in the place of each If, in place.

    The condition of an If may also follow from shapes, if it is the same at all batches and sizes that the
    input declares.

    Raises:
        InvalidArgument: a sparse constant, or an If that the image decides; its name and what can be done.
    """
    graph = model.graph
    if graph.sparse_initializer:
        raise _sparse(graph.sparse_initializer[0].values.name)
    _to_initializers(graph)
    _fold_constants(model)
    while branches := [node for node in graph.node if node.op_type == "If"]:
        _inline(graph, branches[0], _condition(model, branches[0]))
        _to_initializers(graph)
        _fold_constants(model)
    read = set(_read(graph.node)) | {info.name for info in graph.output}
    if any(tensor.name not in read for tensor in graph.initializer):
        surgery.replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    return []


def _sparse(name: str) -> InvalidArgument:
    text = f"model: the constant {name!r} is sparse: export it as a dense tensor"
    return InvalidArgument(text, field="model")


def _to_initializers(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers, so that all weights are of one kind."""
    rest = []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            rest.append(node)
            continue
        graph.initializer.append(_tensor(node))
        graph.initializer[-1].name = node.output[0]
    surgery.replace(graph.node, rest)


def _tensor(node: onnx.NodeProto) -> onnx.TensorProto:
    (attribute,) = node.attribute
    if attribute.name == "value":
        return attribute.t
    if attribute.name not in VALUES:
        raise _sparse(node.output[0])
    value = helper.get_attribute_value(attribute)
    return numpy_helper.from_array(np.asarray(value, VALUES[attribute.name]))


def _fold_constants(model: onnx.ModelProto) -> None:
    """Replace nodes that only constants reach by what they compute, in ONNX Runtime."""
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    nodes, rest = list[onnx.NodeProto](), list[onnx.NodeProto]()
    for node in graph.node:
        inner = any(attribute.type in SUBGRAPHS for attribute in node.attribute)
        constant = not inner and node.op_type not in RANDOM and known.issuperset(filter(None, node.input))
        (nodes if constant else rest).append(node)
        known.update(node.output if constant else ())
    read = set(_read(rest)) | {info.name for info in graph.output}
    wanted = [name for node in nodes for name in node.output if name in read]
    if not wanted:
        return
    values = _computed(model, nodes, wanted)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    surgery.replace(graph.node, rest)


def _read(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """The values that nodes, and the graphs within them, read."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in SUBGRAPHS else ():
                yield from _read(inner.node)
                yield from (info.name for info in inner.output)


def _computed(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], wanted: Sequence[str]
) -> dict[str, NDArray[Any]]:
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
    part = helper.make_model(
        helper.make_graph(nodes, "constants", [], outputs, tensors),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(wanted, session.run(list(wanted), {}), strict=True))
    except Exception as error:  # onnxruntime's errors have no common public base.
        shown = ", ".join(sorted({node.op_type for node in nodes}))
        text = f"model: what it computes of its constants ({shown}) cannot be computed: {error}"
        raise InvalidArgument(text, field="model") from error


def _condition(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether the first branch of an If is taken, at every batch and size."""
    taken = {_at(model, node, shape) for shape in _declared(model)}
    if len(taken) != 1 or None in taken:
        name = node.name or node.output[0]
        text = (
            f"model: If ({name}) takes its branch by the image, its size or batch: "
            "export the network with a fixed size, or without the branch"
        )
        raise InvalidArgument(text, field="model")
    return bool(taken.pop())


def _declared(model: onnx.ModelProto) -> list[list[int]]:
    """Shapes of the input: what it declares, and `PROBES` for what it leaves open."""
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    if len(dims) != 4:
        return [dims]
    channels_last = dims[3] in (1, 3, 4) and dims[1] not in (1, 3, 4)
    places = (0, 1, 2) if channels_last else (0, 2, 3)
    shapes = []
    for probe in PROBES:
        shape = [size or 3 for size in dims]
        for place, size in zip(places, probe, strict=True):
            shape[place] = dims[place] or size
        shapes.append(shape)
    return shapes


def _at(model: onnx.ModelProto, node: onnx.NodeProto, shape: Sequence[int]) -> bool | None:
    """The condition of `node` for an input of this shape; None where something else decides."""
    graph, condition = model.graph, node.input[0]
    before = list(graph.node)[: list(graph.node).index(node)]
    sizes = _sizes(model, before, shape)
    needed, nodes, known = {condition}, list[onnx.NodeProto](), list[onnx.TensorProto]()
    for maker in reversed(before):
        if needed.isdisjoint(maker.output):
            continue
        size = sizes.get(maker.input[0]) if maker.op_type in SHAPES else None
        if size and all(size):
            known.append(numpy_helper.from_array(_told(maker, size), maker.output[0]))
        else:
            nodes.insert(0, maker)
            needed.update(maker.input)
    known += [tensor for tensor in graph.initializer if tensor.name in needed]
    output = helper.make_tensor_value_info(condition, TensorProto.BOOL, None)
    part = helper.make_model(
        helper.make_graph(nodes, "condition", [], [output], known), opset_imports=model.opset_import
    )
    try:
        values: Any = ReferenceEvaluator(part).run(None, {})
        return bool(np.asarray(values[0]).all())
    except Exception:  # Of an image that nobody gave, or of an operator that it does not know.
        return None


def _sizes(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], shape: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """The shapes of what `nodes` make of an input of this shape."""
    image = model.graph.input[0]
    kind = image.type.tensor_type.elem_type
    image = helper.make_tensor_value_info(image.name, kind, shape)
    known = list(map(surgery.outlined, model.graph.initializer))
    graph = helper.make_graph(nodes, "before", [image], [], known)
    part = helper.make_model(graph, opset_imports=model.opset_import)
    return surgery.shapes(surgery.inferred(part, data_prop=True))


def _told(node: onnx.NodeProto, size: tuple[int, ...]) -> NDArray[np.int64]:
    """What a Shape or Size says of a value of this shape."""
    if node.op_type == "Size":
        return np.asarray(math.prod(size), np.int64)
    ends: dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(size[ends.get("start") : ends.get("end")], np.int64)


def _inline(graph: onnx.GraphProto, node: onnx.NodeProto, taken: bool) -> None:
    """Put the nodes of a branch in the place of `node`; values of the outer graph are read as they are."""
    wanted = "then_branch" if taken else "else_branch"
    branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
    own = {tensor.name for tensor in branch.initializer} | {
        value for inner in branch.node for value in inner.output
    }
    names = {name: f"{node.output[0]}/{name}" for name in own if name}
    _rename(branch, names)
    results = [names.get(info.name, info.name) for info in branch.output]
    ends = [
        helper.make_node("Identity", [result], [value], name=value)
        for result, value in zip(results, node.output, strict=True)
        if value
    ]
    place = list(graph.node).index(node)
    nodes = list(graph.node)
    surgery.replace(graph.node, [*nodes[:place], *branch.node, *ends, *nodes[place + 1 :]])
    graph.initializer.extend(branch.initializer)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values wherever they are read or made, in graphs within nodes too."""
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for values in (node.input, node.output):
            surgery.replace(values, [names.get(value, value) for value in values])
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in SUBGRAPHS else ():
                _rename(inner, names)
                for info in inner.output:
                    info.name = names.get(info.name, info.name)
