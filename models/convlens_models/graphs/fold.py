"""Computes at once what a graph computes of constants alone, and the sizes that are known.

Exporters leave chains of Shape, Gather and Concat behind, constant pads, and weights that are standardised at
each run. ONNX's shape inference follows some of these chains only; folded, all values have shapes where the
input's is known, so that layers, multiply-adds and gradients are those of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]
Known = dict[str, Array]

LARGEST: Final = 1 << 28
"""Elements of a value that is folded at most; a graph may ask for more, as ConstantOfShape does."""
TOLD: Final = 64
"""Elements up to which a constant may be a shape, pads or axes, which shape inference reads."""
RANDOM: Final = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
SHAPES: Final = frozenset({"Shape", "Size"})


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, in place, without the nodes whose values follow from constants and from declared sizes.

    Weights that lie in external files are not read, and what is computed of them stays. All other values keep
    their names.
    """
    known = SizesOf(model)
    kept = [node for node in model.graph.node if not known.visit(node)]
    used = {name for node in kept for name in node.input} | {info.name for info in model.graph.output}
    used |= {name for node in kept for name in captured(node)}
    del model.graph.node[:]
    model.graph.node.extend(kept)
    made = (known.tensor(name) for name in known.constants if name in used)
    tensors = [*(tensor for tensor in model.graph.initializer if tensor.name in used), *made]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    return model


class SizesOf:
    """What is known so far of the values of a graph, as its nodes are visited in their order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.opsets = list(model.opset_import)
        self.constants: Known = {}
        self.versions = {entry.domain: entry.version for entry in self.opsets}
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.types: dict[str, TypeProto] = {info.name: info.type for info in model.graph.input}
        self.outputs = {info.name for info in model.graph.output}
        self.partial: dict[str, list[int | None]] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a value, if all are known; else none."""
        if name in self.constants:
            return self.constants[name].shape
        if name in self.tensors:
            return tuple(self.tensors[name].dims)
        sizes = _sizes(self.types.get(name)) or []
        known = tuple(size for size in sizes if size is not None)
        return known if len(known) == len(sizes) else ()

    def visit(self, node: onnx.NodeProto) -> bool:
        """Learn what the node's outputs are; whether these are constants, which need no node."""
        values = self._computed(node)
        if values is None or len(values) < len([name for name in node.output if name]):
            self._infer(node)
            return False
        self.constants.update(values)
        return self.outputs.isdisjoint(values)

    def tensor(self, name: str) -> TensorProto:
        """A value that was computed, as an initializer."""
        return numpy_helper.from_array(np.asarray(self.constants[name], order="C"), name)

    def value(self, name: str) -> Array | None:
        """The numbers of a constant, unless they lie in a file."""
        if name not in self.constants and name in self.tensors:
            tensor = self.tensors[name]
            if tensor.data_location == TensorProto.EXTERNAL:
                return None
            return numpy_helper.to_array(tensor)
        return self.constants.get(name)

    def _computed(self, node: onnx.NodeProto) -> Known | None:
        if node.domain not in ("", "ai.onnx") or node.op_type in RANDOM or _bodies(node):
            return None
        if node.op_type in SHAPES:
            return self._shape(node)
        if (known := self._element(node)) is not None:
            return {node.output[0]: known}
        inputs = self._values(node.input)
        return None if inputs is None or _too_large(node, inputs) else _run(node, inputs, self.opsets)

    def _values(self, names: Iterable[str]) -> Known | None:
        """The numbers of constants, None where one is none; weights are decoded only if all are constants."""
        named = [name for name in names if name]
        if not all(name in self.constants or name in self.tensors for name in named):
            return None
        values = {name: self.value(name) for name in named}
        known = {name: value for name, value in values.items() if value is not None}
        return known if len(known) == len(values) else None

    def _shape(self, node: onnx.NodeProto) -> Known | None:
        """The sizes of a value, where all that are asked for are known."""
        constant = self.value(node.input[0])
        sizes: Sequence[int | None] | None = _sizes(self.types.get(node.input[0]))
        if constant is not None or node.input[0] in self.tensors:
            sizes = list(self.tensors[node.input[0]].dims if constant is None else constant.shape)
        if sizes is None:
            return None
        options = {attribute.name: attribute.i for attribute in node.attribute}
        sizes = list(sizes)[options.get("start", 0) : options.get("end", len(sizes))]
        if None not in sizes:
            array = np.array(sizes, np.int64)
            return {node.output[0]: array if node.op_type == "Shape" else np.array(array.prod(), np.int64)}
        if node.op_type == "Shape":
            self.partial[node.output[0]] = sizes
        return None

    def _element(self, node: onnx.NodeProto) -> Array | None:
        """Known sizes picked out of a shape of which others are open."""
        sizes = self.partial.get(node.input[0]) if node.input else None
        if sizes is None or node.op_type not in ("Gather", "Slice"):
            return None
        if (others := self._values(node.input[1:])) is None:
            return None
        taken = _run(node, {node.input[0]: np.arange(len(sizes)), **others}, self.opsets)
        if taken is None:
            return None
        picked = np.asarray(taken[node.output[0]])
        found = [sizes[place] for place in picked.reshape(-1)]
        if None in found:
            if picked.ndim == 1:
                self.partial[node.output[0]] = found
            return None
        return np.array(found, np.int64).reshape(picked.shape)

    def _infer(self, node: onnx.NodeProto) -> None:
        """The types of the node's outputs, of those of its inputs and of small constants."""
        types, data = dict[str, TypeProto](), dict[str, TensorProto]()
        for name in node.input:
            if name in self.types:
                types[name] = self.types[name]
            elif (constant := self.tensors.get(name)) is not None:
                types[name] = helper.make_tensor_type_proto(constant.data_type, constant.dims)
                if int(np.prod(constant.dims)) <= TOLD and constant.data_location != TensorProto.EXTERNAL:
                    data[name] = constant
            elif name in self.constants:
                tensor = self.tensor(name) if self.constants[name].size <= TOLD else None
                kind = helper.np_dtype_to_tensor_dtype(self.constants[name].dtype)
                types[name] = helper.make_tensor_type_proto(kind, self.constants[name].shape)
                if tensor is not None:
                    data[name] = tensor
        try:
            schema = defs.get_schema(node.op_type, self.versions.get(node.domain, 1), node.domain)
            found = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self.opsets, ir_version=self.model.ir_version
            )
        except Exception:
            return
        self.types.update(found)


def _too_large(node: onnx.NodeProto, inputs: Known) -> bool:
    """Whether the result might not fit: of what makes large values of small ones, by what it is told."""
    if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
        given = 1 if node.op_type == "ConstantOfShape" else inputs[node.input[0]].size
        return float(np.prod(np.abs(inputs[node.input[-1]].astype(np.float64)))) * given > LARGEST
    return sum(value.size for value in inputs.values()) > LARGEST


def _run(node: onnx.NodeProto, inputs: Known, opsets: Sequence[onnx.OperatorSetIdProto]) -> Known | None:
    """What a node makes of constants, by ONNX's own reference; None where that cannot tell."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output if name]
    graph = helper.make_graph([node], "constant", infos, outputs)
    try:
        with np.errstate(all="ignore"):
            values = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, inputs)
    except Exception:
        return None
    if not all(isinstance(value, np.ndarray | np.generic) for value in values):
        return None
    return dict(zip((info.name for info in outputs), map(np.asarray, values), strict=True))


def _sizes(kind: TypeProto | None) -> list[int | None] | None:
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return [int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims]


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def captured(node: onnx.NodeProto) -> set[str]:
    """The names that the branches of a node read, those from outside among them."""
    found = set[str]()
    for body in (attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH):
        found.update(info.name for info in body.output)
        for inner in body.node:
            found.update(inner.input, captured(inner))
    return found
