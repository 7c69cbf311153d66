"""Transpositions pushed through the nodes behind them, so that maps have their channels first.

A file whose channels come last transposes around each convolution, and computes what lies between with
channels last. Here a value that is transposed is known as a view of one that is not: what is pointwise is
computed of the latter, axes are renumbered, and a transposition is made where a node needs one. The
arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from convlens_models.graphs import surgery
from convlens_models.vjp.graph_builder import Node

Perm = tuple[int, ...]
RANK: Final = 4


class View(NamedTuple):
    """A value that is `source` transposed by `perm`."""

    source: str
    perm: Perm


class Draft:
    """The graph while transpositions move."""

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = surgery.inferred(model)
        self.sizes = surgery.shapes(inferred)
        self.graph = model.graph
        self.nodes = list[onnx.NodeProto]()
        self.views = dict[str, View]()
        self.outputs = {info.name for info in model.graph.output}
        self.arrays = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made = dict[tuple[str, Perm], str]()

    def array(self, name: str) -> NDArray[Any] | None:
        """A constant's value."""
        return numpy_helper.to_array(self.arrays[name]) if name in self.arrays else None

    def constant(self, value: NDArray[Any], like: str) -> str:
        """The name of a new constant."""
        name = f"{like}/first{len(self.arrays)}"
        self.arrays[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.graph.initializer.append(self.arrays[name])
        return name

    def transposed(self, source: str, perm: Perm, name: str = "") -> str:
        """`source` by `perm`, made once; under `name`, if one is given."""
        if perm == tuple(range(len(perm))) and not name:
            return source
        if name or (source, perm) not in self._made:
            made = name or f"{source}/turned{''.join(map(str, perm))}"
            node = helper.make_node("Transpose", [source], [made], name=made, perm=list(perm))
            self.nodes.append(surgery.hidden(node))
            self._made[source, perm] = made
        return self._made[source, perm]

    def plain(self, name: str) -> str:
        """The value as the file has it."""
        return self.transposed(*self.views[name]) if name in self.views else name

    def seen_by(self, perm: Perm, name: str) -> str | None:
        """What `name` is in the order of the source of a view by `perm`; None if that cannot be told."""
        back = tuple(np.argsort(perm).tolist())
        if name in self.views:
            source, own = self.views[name]
            turned = tuple(own[axis] for axis in back) if len(own) == len(perm) else ()
            return self.transposed(source, turned) if turned else None
        if (value := self.array(name)) is not None:
            if value.size == 1 or value.ndim > RANK:
                return name if value.size == 1 else None
            shape = (1,) * (RANK - value.ndim) + value.shape
            if (name, perm) not in self._made:
                self._made[name, perm] = self.constant(value.reshape(shape).transpose(back), name)
            return self._made[name, perm]
        return self.transposed(name, back) if len(self.sizes.get(name, ())) == len(perm) else None

    def give(self, node: Node, inputs: Sequence[str], perm: Perm, **changed: Any) -> None:
        """Append the node with other inputs and attributes; its outputs are views by `perm`."""
        made = onnx.NodeProto()
        made.CopyFrom(node.proto)
        surgery.replace(made.input, inputs)
        surgery.replace(made.attribute, [item for item in made.attribute if item.name not in changed])
        made.attribute.extend(helper.make_attribute(name, value) for name, value in changed.items())
        turned = perm != tuple(range(len(perm)))
        names = [f"{value}/first" if turned and value in self.outputs else value for value in node.outputs]
        surgery.replace(made.output, names)
        self.nodes.append(made)
        for value, name in zip(node.outputs, names, strict=True):
            if value and turned:
                self.views[value] = View(name, perm)
            if name != value:
                self.transposed(name, perm, value)


def channels_first(model: onnx.ModelProto) -> None:
    """Compute in the order (N, C, H, W) what comes between two transpositions, in place."""
    draft = Draft(model)
    for proto in model.graph.node:
        node = Node(proto)
        if node.kind == "Reshape" and (perm := _moves_one(draft, node)):
            _turn(draft, node, perm)
        elif node.kind == "Transpose" and len(node.get("perm", ())) == RANK:
            _turn(draft, node, tuple(node.get("perm")))
        elif draft.views.keys().isdisjoint(node.inputs) or not PUSHED.get(node.kind, _not)(draft, node):
            surgery.replace(proto.input, [draft.plain(name) for name in node.inputs])
            draft.nodes.append(proto)
    needed = surgery.ancestors(onnx.GraphProto(node=draft.nodes), [info.name for info in model.graph.output])
    surgery.replace(model.graph.node, [node for node in draft.nodes if needed.intersection(node.output)])
    del model.graph.value_info[:]


def _turn(draft: Draft, node: Node, perm: Perm) -> None:
    """A transposition becomes a view, of the source of the view that it transposes."""
    source, own = draft.views.get(node.inputs[0], View(node.inputs[0], tuple(range(RANK))))
    view = View(source, tuple(own[axis] for axis in perm))
    draft.views[node.outputs[0]] = view
    if node.outputs[0] in draft.outputs:
        draft.transposed(*view, node.outputs[0])


def _moves_one(draft: Draft, node: Node) -> Perm | None:
    """The transposition that a Reshape is which moves one channel behind the columns or before the rows."""
    before, after = (list(draft.sizes.get(name, ())) for name in (node.inputs[0], node.outputs[0]))
    if len(before) != RANK or len(after) != RANK or 0 in (*before[1:], *after[1:]) or before[1:] == after[1:]:
        return None
    if before[3] == after[1] == 1 and before[1:3] == after[2:]:
        return 0, 3, 1, 2
    if before[1] == after[3] == 1 and before[2:] == after[1:3]:
        return 0, 2, 3, 1
    return None


def _not(draft: Draft, node: Node) -> bool:
    return False


def _pointwise(draft: Draft, node: Node) -> bool:
    """One number of the output is made of those at the same place of the inputs."""
    perm = next(draft.views[name].perm for name in node.inputs if name in draft.views)
    inputs = [draft.seen_by(perm, name) if name else "" for name in node.inputs]
    if None in inputs:
        return False
    draft.give(node, [name or "" for name in inputs], perm)
    return True


def _along(default: int) -> Callable[[Draft, Node], bool]:
    """Pointwise but for the attribute `axis`."""

    def push(draft: Draft, node: Node) -> bool:
        perm = next(draft.views[name].perm for name in node.inputs if name in draft.views)
        inputs = [draft.seen_by(perm, name) for name in node.inputs]
        if None in inputs or any(name in draft.arrays for name in node.inputs):
            return False
        axis = perm[node.get("axis", default)]
        draft.give(node, [name or "" for name in inputs], perm, axis=axis)
        return True

    return push


def _split(draft: Draft, node: Node) -> bool:
    source, perm = draft.views[node.inputs[0]]
    draft.give(node, [source, *node.inputs[1:]], perm, axis=perm[node.get("axis", 0)])
    return True


def _pad(draft: Draft, node: Node) -> bool:
    """Pads begin and end each axis."""
    source, perm = draft.views.get(node.inputs[0], View("", ()))
    pads = draft.array(node.input(1))
    if pads is None or node.input(3) or not source:
        return False
    back = np.argsort(perm)
    moved = np.concatenate([pads[:RANK][back], pads[RANK:][back]])
    draft.give(node, [source, draft.constant(moved, node.outputs[0]), *node.inputs[2:]], perm)
    return True


def _reduce(draft: Draft, node: Node) -> bool:
    """Over axes of the source; those that are left must stay in their order where they lose their places."""
    source, perm = draft.views.get(node.inputs[0], View("", ()))
    by_input = bool(node.input(1))
    axes = draft.array(node.input(1)) if by_input else node.get("axes")
    if axes is None or not source:
        return False
    left = [axis for axis in range(RANK) if axis not in np.asarray(axes) % RANK]
    kept = [perm[axis] for axis in left]
    over = sorted(perm[axis] for axis in np.asarray(axes) % RANK)
    keeps = node.kind not in ("Squeeze",) and node.get("keepdims", 1)
    if not keeps and kept != sorted(kept):
        return False
    options = {} if by_input else {"axes": over}
    more = [draft.constant(np.array(over, np.int64), node.outputs[0])] if by_input else []
    draft.give(node, [source, *more], perm if keeps else tuple(range(len(left))), **options)
    return True


def _resize(draft: Draft, node: Node) -> bool:
    """Scales or sizes of each axis."""
    source, perm = draft.views.get(node.inputs[0], View("", ()))
    numbers = [draft.array(name) if name else None for name in node.inputs[2:]]
    known = [value is not None or not name for value, name in zip(numbers, node.inputs[2:], strict=True)]
    if (
        not source
        or not all(known)
        or node.get("axes")
        or node.get("coordinate_transformation_mode") == CROPS
    ):
        return False
    back = np.argsort(perm)
    moved = [
        name if value is None or not value.size else draft.constant(value[back], node.outputs[0])
        for name, value in zip(node.inputs[2:], numbers, strict=True)
    ]
    draft.give(node, [source, "", *moved], perm)
    return True


def _shape(draft: Draft, node: Node) -> bool:
    """The sizes of the source, in another order."""
    source, perm = draft.views[node.inputs[0]]
    if node.attributes:
        return False
    value, sizes = node.outputs[0], f"{node.outputs[0]}/first"
    order = draft.constant(np.array(perm, np.int64), value)
    draft.nodes.append(helper.make_node("Shape", [source], [sizes], name=sizes))
    draft.nodes.append(helper.make_node("Gather", [sizes, order], [value], name=value))
    return True


CROPS: Final = "tf_crop_and_resize"
POINTWISE: Final = (
    *("Abs", "Add", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp"),
    *("Floor", "Gelu", "Greater", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "Log", "Max"),
    *("Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid"),
    *("Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where"),
)
REDUCING: Final = (
    *("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare", "Squeeze"),
)
PUSHED: Final[dict[str, Callable[[Draft, Node], bool]]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(REDUCING, _reduce),
    "Concat": _along(1),
    "LogSoftmax": _along(-1),
    "Pad": _pad,
    "Resize": _resize,
    "Shape": _shape,
    "Softmax": _along(-1),
    "Split": _split,
}
"""What puts a node behind the transposition of its input: whether it could, or must have it as it is."""
