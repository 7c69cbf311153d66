"""The graph under construction: the forward nodes, and the gradient nodes that rules append to them."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from convlens.errors import InvalidArgument

Dim = int | str | None
Array = npt.NDArray[Any]


class ReluRule(StrEnum):
    """What a ReLU sends back for the incoming signal g at activation y; the names are the wire's names."""

    GRADIENT = "gradient"  # g where y > 0
    GUIDED = "guided_backprop"  # g where y > 0 and g > 0 (Springenberg et al., 2015)
    DECONVNET = "deconvnet"  # g where g > 0 (Zeiler and Fergus, 2014)


class Pieces(Protocol):
    """A gradient that is not in one piece."""

    def join(self, t: GraphBuilder) -> str:
        """Append the nodes that put it together."""


class GraphBuilder:
    """Appends nodes to a graph and answers what is known about its values.

    New values are called by `stem` and their operator. Sizes are ints where they are known, names where the
    model calls them by a name ("N", "H"), else None.
    """

    def __init__(self, graph: onnx.GraphProto, rule: ReluRule, stem: str = "grad") -> None:
        self.graph, self.rule, self.stem = graph, rule, stem
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.initializers: list[TensorProto] = []
        self.producer = {output: node for node in graph.node for output in node.output if output}
        self._known = {value.name: value.type.tensor_type for value in _values(graph)}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = {*self.producer, *self._known, *self._weights}
        self._counters: dict[str, itertools.count[int]] = {}
        self._cache: dict[tuple[Any, ...], str] = {}
        self.pieces: dict[str, Pieces] = {}
        self._joined: dict[str, str] = {}

    @contextmanager
    def under(self, rule: ReluRule) -> Iterator[None]:
        """Within it, gradients follow another ReLU rule."""
        self.rule, outer = rule, self.rule
        try:
            yield
        finally:
            self.rule = outer

    # What is known about values

    def dims(self, value: str) -> tuple[Dim, ...] | None:
        """The sizes of `value`, or None if not even their number is known."""
        if value in self._weights:
            return tuple(self._weights[value].dims)
        known = self._known.get(value)
        if known is None or not known.HasField("shape"):
            return None
        return tuple(_dim(dim) for dim in known.shape.dim)

    def shape(self, value: str) -> tuple[Dim, ...]:
        """The sizes of `value`; a model whose ranks cannot be inferred is not differentiable."""
        dims = self.dims(value)
        if dims is None:
            raise InvalidArgument(
                f"cannot differentiate the graph: the rank of {value!r} is not known", field="model"
            )
        return dims

    def is_float(self, value: str) -> bool:
        """Whether gradients can flow through `value`; what nobody typed counts as float.

        Raises:
            InvalidArgument: its numbers are of another precision than float32.
        """
        kind = self._known[value].elem_type if value in self._known else TensorProto.FLOAT
        if kind in OTHER_FLOATS:
            name = TensorProto.DataType.Name(kind)
            raise not_differentiable("the graph", f"{value!r} is {name}, only FLOAT has rules")
        return kind in {TensorProto.FLOAT, TensorProto.UNDEFINED}

    def constant_of(self, value: str) -> Array | None:
        """The numbers behind `value` where they lie in the graph itself (not in an external file)."""
        tensor = self._weights.get(value)
        node = self.producer.get(value)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
            if tensor is None:
                return np.asarray(helper.get_attribute_value(node.attribute[0]))
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)

    def describe(self, value: str, dims: Sequence[Dim]) -> None:
        """Note of a new map [N, C, H, W] the first of its sizes; the others are open."""
        tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [*dims, *[None] * (4 - len(dims))])
        self._known[value] = tensor.tensor_type

    # Appending nodes

    def op(self, kind: str, *inputs: str | float, **attributes: Any) -> str:
        """The output of a new node; a number as input becomes a float32 constant."""
        name = self.fresh(f"{self.stem}/{kind}")
        sources = [self.whole(value) if isinstance(value, str) else self.floats(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, sources, [name], name=name, **attributes))
        return name

    def whole(self, value: str) -> str:
        """The name of the value in one piece; pieces are joined when they are asked for first."""
        if value in self.pieces and value not in self._joined:
            self._joined[value] = self.pieces[value].join(self)
        return self._joined.get(value, value)

    def floats(self, values: float | Sequence[float] | Array) -> str:
        """The name of a float32 constant."""
        return self._constant(np.asarray(values, np.float32))

    def ints(self, values: int | Sequence[int] | Array) -> str:
        """The name of an int64 constant."""
        return self._constant(np.asarray(values, np.int64))

    def add(self, a: str | float, b: str | float) -> str:
        """a + b"""
        return self.op("Add", a, b)

    def sub(self, a: str | float, b: str | float) -> str:
        """a - b"""
        return self.op("Sub", a, b)

    def mul(self, a: str | float, b: str | float) -> str:
        """a b"""
        return self.op("Mul", a, b)

    def div(self, a: str | float, b: str | float) -> str:
        """a / b"""
        return self.op("Div", a, b)

    def positive(self, value: str) -> str:
        """1 where value > 0, else 0: exact, and ONNX Runtime keeps it in its blocked layout.

        min(1, max(0, 3e38 v)) is 1 for every normal number; Where, Greater and Sign would leave the layout.
        """
        return self.once("HardSigmoid", value, alpha=3e38, beta=0.0)

    def like(self, gradient: str, value: str) -> str:
        """The gradient reshaped to the shape of `value`."""
        return self.op("Reshape", gradient, self.sizes(value))

    def sizes(self, value: str) -> str:
        """The shape of `value` as a tensor: a constant where all of it is known."""
        dims = self.dims(value)
        known = None if dims is None else known_sizes(dims)
        return self.once("Shape", value) if known is None else self.ints(known)

    def once(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Like `op`, but equal calls make one node."""
        key = (kind, inputs, repr(sorted(attributes.items())))
        if key not in self._cache:
            self._cache[key] = self.op(kind, *inputs, **attributes)
        return self._cache[key]

    def fresh(self, stem: str) -> str:
        """A name that no value of the graph has."""
        for count in self._counters.setdefault(stem, itertools.count()):
            name = f"{stem}.{count}" if count else stem
            if name not in self._taken:
                break
        self._taken.add(name)
        return name

    def _constant(self, array: Array) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._cache:
            self._cache[key] = self.fresh(f"{self.stem}/constant")
            self.initializers.append(numpy_helper.from_array(array, self._cache[key]))
        return self._cache[key]


def known_sizes(sizes: Iterable[Dim]) -> list[int] | None:
    """The sizes, if all of them are numbers."""
    listed = list(sizes)
    known = [size for size in listed if isinstance(size, int)]
    return known if len(known) == len(listed) else None


def not_differentiable(what: str, reason: str) -> InvalidArgument:
    """The error for a graph or a node that no rule covers."""
    message = f"cannot differentiate {what}: {reason}"
    return InvalidArgument(message, field="model", reason="NOT_DIFFERENTIABLE")


OTHER_FLOATS = {TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}


class Node:
    """A forward node as the rules see it: inputs, outputs, attributes, and which gradients are asked for."""

    def __init__(self, proto: onnx.NodeProto, active: Container[str] = ()) -> None:
        self.proto, self._active = proto, active
        self.kind: str = proto.op_type
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)
        self._attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute `name`, with strings decoded, or the default."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def wants(self, index: int) -> bool:
        """Whether the gradient of input `index` leads to the image."""
        return self.input(index) in self._active

    def refuse(self, reason: str) -> InvalidArgument:
        """The error for a node that no rule covers."""
        return not_differentiable(f"{self.kind} node {self.proto.name or self.outputs[0]!r}", reason)

    def input(self, index: int) -> str:
        """The input at `index`, "" where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes that the model states."""
        return {name: self.get(name) for name in self._attributes}


def _values(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    yield from graph.value_info
    yield from graph.input
    yield from graph.output


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None
