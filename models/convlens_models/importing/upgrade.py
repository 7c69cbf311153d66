"""Old files and files in training mode in the form of today: weights beside the inputs, opset 17, inference.

Each opset before 17 moved some attributes to inputs, or changed what a default means; `CHANGES` has a row for
each operator of these. All other operators from opset 7 on mean today what they meant then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from convlens.errors import InvalidArgument
from convlens_models.graphs import autodiff, surgery
from convlens_models.importing.inputs import read_inputs

OLDEST: Final = 7
TARGET: Final = 17
IR: Final = 8
"""The oldest format of files that may use opset 17."""
Nodes = list[onnx.NodeProto]


def upgrade(model: onnx.ModelProto) -> list[str]:
    """Bring `model` to an opset that can be differentiated and to inference, in place; what is to be told.

    Raises:
        InvalidArgument: an opset older than 7 or newer than 26, or a node that no newer opset has; its name.
    """
    if not OLDEST <= (opset := surgery.opset(model)) < autodiff.OPSETS.stop:
        allowed = f"from {OLDEST} to {autodiff.OPSETS.stop - 1}: export the network again with such an opset"
        raise InvalidArgument.of("model.opset", opset, allowed)
    surgery.replace(model.graph.input, read_inputs(model.graph))
    if opset < autodiff.OPSETS.start:
        sizes = surgery.shapes(surgery.inferred(model))
        for graph in graphs(model.graph):
            _raise(graph, opset, sizes)
        for entry in model.opset_import:
            entry.version = TARGET if entry.domain in ("", "ai.onnx") else entry.version
        model.ir_version = max(model.ir_version, IR)
    trained = [name for graph in graphs(model.graph) for name in to_inference(graph)]
    if not trained:
        return []
    return [
        f"{len(trained)} nodes were left in training mode ({trained[0]}): served in inference mode, batch "
        "normalisation with its stored statistics"
    ]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in SUBGRAPHS else ():
                yield from graphs(inner)


SUBGRAPHS: Final = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


class Old(NamedTuple):
    """A node of an old opset, and what is known around it."""

    node: onnx.NodeProto
    opset: int
    graph: onnx.GraphProto
    sizes: dict[str, tuple[int, ...]]

    def take(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, which the node then no longer has."""
        for place, attribute in enumerate(self.node.attribute):
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                del self.node.attribute[place]
                return value
        return default

    def constant(self, name: str, value: Any) -> str:
        """The name of a new constant beside the node."""
        name = f"{self.node.output[0]}.{name}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def refuse(self, why: str) -> InvalidArgument:
        """The error that names the node."""
        name = self.node.name or self.node.output[0]
        return InvalidArgument(f"model: {self.node.op_type} ({name}) {why}", field="model")


def _raise(graph: onnx.GraphProto, opset: int, sizes: dict[str, tuple[int, ...]]) -> None:
    nodes = Nodes()
    for node in graph.node:
        before, change = CHANGES.get(node.op_type, (0, _same))
        old = Old(node, opset, graph, sizes)
        nodes += change(old) if opset < before and node.domain in ("", "ai.onnx") else [node]
    surgery.replace(graph.node, nodes)


def _same(old: Old) -> Nodes:
    return [old.node]


def _moving(**kinds: type) -> Callable[[Old], Nodes]:
    """Attributes become inputs behind those that the node has, in this order."""

    def change(old: Old) -> Nodes:
        values = {name: old.take(name) for name in kinds}
        names = [
            "" if value is None else old.constant(name, np.asarray(value, kinds[name]))
            for name, value in values.items()
        ]
        old.node.input.extend(names)
        while not old.node.input[-1]:
            del old.node.input[-1]
        return [old.node]

    return change


def _top_k(old: Old) -> Nodes:
    old.node.input.append(old.constant("k", np.array([old.take("k")], np.int64)))
    return [old.node]


def _resize(old: Old) -> Nodes:
    """Upsample, and the first Resize: positions count from the corner, and go down where it enlarges."""
    node = old.node
    scales = old.take("scales")
    if scales is not None:
        node.input.append(old.constant("scales", np.float32(scales)))
    known = {tensor.name: tensor for tensor in old.graph.initializer}.get(node.input[1])
    smaller = known is not None and bool((numpy_helper.to_array(known) < 1).any())
    new = helper.make_node("Resize", [node.input[0], "", node.input[1]], node.output, name=node.name)
    new.attribute.extend(node.attribute)
    corner = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if smaller else "floor"}
    new.attribute.extend(helper.make_attribute(name, value) for name, value in corner.items())
    return [new]


def _softmax(old: Old) -> Nodes:
    """Once over all axes from `axis` on, now over one: the same where the others have one position."""
    node, source, value = old.node, old.node.input[0], old.node.output[0]
    axis, sizes = old.take("axis", 1), old.sizes.get(source, ())
    axis = axis + len(sizes) if axis < 0 else axis
    if sizes and all(size == 1 for size in sizes[axis + 1 :]):
        node.attribute.append(helper.make_attribute("axis", axis))
        return [node]
    rows, shape, result = f"{value}.rows", f"{value}.shape", f"{value}.flat"
    return [
        helper.make_node("Flatten", [source], [rows], name=rows, axis=axis),
        helper.make_node(node.op_type, [rows], [result], name=node.name, axis=1),
        helper.make_node("Shape", [source], [shape], name=shape),
        helper.make_node("Reshape", [result, shape], [value], name=value),
    ]


def _batch_normalization(old: Old) -> Nodes:
    if old.take("spatial", 1) != 1:
        raise old.refuse("normalises each position by itself (spatial=0), which no opset from 9 on can say")
    return [old.node]


def _dropout(old: Old) -> Nodes:
    old.take("ratio")
    return [old.node]


def _scatter(old: Old) -> Nodes:
    old.node.op_type = "ScatterElements"
    return [old.node]


CHANGES: Final[dict[str, tuple[int, Callable[[Old], Nodes]]]] = {
    "BatchNormalization": (9, _batch_normalization),
    "Clip": (11, _moving(min=np.float32, max=np.float32)),
    "Dropout": (12, _dropout),
    "Hardmax": (13, _softmax),
    "LogSoftmax": (13, _softmax),
    "Pad": (11, _moving(pads=np.int64, value=np.float32)),
    "ReduceSum": (13, _moving(axes=np.int64)),
    "Resize": (11, _resize),
    "Scatter": (11, _scatter),
    "Slice": (10, _moving(starts=np.int64, ends=np.int64, axes=np.int64)),
    "Softmax": (13, _softmax),
    "Split": (13, _moving(split=np.int64)),
    "Squeeze": (13, _moving(axes=np.int64)),
    "TopK": (10, _top_k),
    "Unsqueeze": (13, _moving(axes=np.int64)),
    "Upsample": (10, _resize),
}
"""Of each operator: the opset that changed it, and what makes a node of today of one from before."""


def to_inference(graph: onnx.GraphProto) -> Iterator[str]:
    """Switch training off; the names of the nodes that were in training mode.

    What only training makes, as new statistics and the mask of a dropout, goes where nobody reads it.
    """
    read = {name for node in graph.node for name in node.input} | {info.name for info in graph.output}
    for node in graph.node:
        if node.op_type not in TRAINED or node.domain not in ("", "ai.onnx"):
            continue
        if TRAINED[node.op_type](node, graph):
            yield node.name or node.output[0]
        if read.isdisjoint(node.output[1:]):
            del node.output[1:]


def _batch_statistics(node: onnx.NodeProto, _: onnx.GraphProto) -> bool:
    """Before opset 14 it is five outputs that mean training."""
    modes = [attribute for attribute in node.attribute if attribute.name == "training_mode"]
    for mode in modes:
        node.attribute.remove(mode)
    return len(node.output) > 1 or any(mode.i for mode in modes)


def _drops(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether its third input says, or may say, that it is to drop."""
    mode: Sequence[str] = [name for name in node.input[2:] if name]
    del node.input[1:]
    off = {tensor.name for tensor in graph.initializer if not numpy_helper.to_array(tensor).any()}
    return not off.issuperset(mode)


TRAINED: Final = {"BatchNormalization": _batch_statistics, "Dropout": _drops}
