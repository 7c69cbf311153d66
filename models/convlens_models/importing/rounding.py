"""A graph while its whole numbers become floats of the same value: rounding, ranges, real numbers again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from convlens_models.graphs import surgery
from convlens_models.vjp.graph_builder import Node
from convlens_models.vjp.marks import RANGE, STRAIGHT, mark

RANGES: Final[dict[int, tuple[int, int]]] = {
    TensorProto.UINT2: (0, 3),
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
}
BEYOND: Final = 0.25
"""Cuts lie this far beyond the range, so that numbers at its ends are within; rounding leads back."""
LINEAR: Final = ("Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "Sum")
"""What gives numbers below zero; a range that begins at zero behind it is a ReLU."""


class Draft:
    """The graph while its whole numbers become floats.

    Attributes:
        kinds: of each value that was of whole numbers and follows from the image, what type it was of.
        unrounded: of each of these that was quantised, what it was made of.
        sizes: shapes of the values of the file, so far as they are known.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.nodes = list[onnx.NodeProto]()
        self.kinds = dict[str, int]()
        self.sizes = surgery.shapes(surgery.inferred(model))
        self.opset = surgery.opset(model)
        self.outputs = {info.name for info in model.graph.output}
        self.unrounded = dict[str, str]()
        self.makers = {value: node.op_type for node in model.graph.node for value in node.output}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._real = dict[tuple[str, ...], str]()

    def array(self, name: str) -> NDArray[Any] | None:
        """A constant's value; None for what is computed, and for no name."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def exact(self, node: Node, index: int) -> NDArray[np.float64]:
        """An input that must be constant; 0 where it is left out."""
        name = node.input(index)
        if name and name not in self._constants:
            raise node.refuse(f"its input {name!r} is not constant")
        return np.asarray(self.array(name) if name else 0.0, np.float64)

    def number(self, node: Node, index: int) -> NDArray[np.float32]:
        """The same in float32."""
        return self.exact(node, index).astype(np.float32)

    def constant(self, value: NDArray[Any] | float, name: str, dtype: Any = np.float32) -> str:
        """The name of a constant: `name`, or one like it where another value has that."""
        array = np.asarray(value, dtype)
        while (known := self.array(name)) is not None:
            if known.dtype == array.dtype and np.array_equal(known, array):
                return name
            name += "+"
        self._constants[name] = numpy_helper.from_array(array, name)
        self.graph.initializer.append(self._constants[name])
        return name

    def add(
        self, kind: str, inputs: Sequence[str], name: str, how: str = surgery.HIDDEN, **options: Any
    ) -> str:
        """The output, `name`, of a new node, which is no layer unless `how` is empty."""
        self.nodes.append(mark(helper.make_node(kind, inputs, [name], name=name, **options), how))
        self.makers.setdefault(name, kind)
        return name

    def quantise(self, source: str, scale: NDArray[Any], zero: NDArray[Any], kind: int, name: str) -> None:
        """Append the nodes that make `name`, whole numbers of the type `kind`."""
        low, high = RANGES[kind]
        if self.makers.get(source) in LINEAR and (zero == low).all():
            source = self.add("Relu", [source], f"{name}/relu", "")
        self.unrounded[name] = source
        names = (self.constant(scale, f"{name}/scale"), self.constant(zero, f"{name}/zero"))
        self.cut(source, names, (low, high), name)
        self.kinds[name] = kind

    def cut(self, source: str, names: tuple[str, str], bounds: tuple[int, int], name: str) -> None:
        """Round `source` over its scale, move it by its zero point, both of `names`, and cut it to bounds."""
        scaled = self.add("Div", [source, names[0]], f"{name}/scaled")
        whole = self.add("Round", [scaled], f"{name}/whole", STRAIGHT)
        moved = self.add("Add", [whole, names[1]], f"{name}/moved")
        ends = [
            self.constant(end + beyond, f"quantised/{end + beyond}")
            for end, beyond in zip(bounds, (-BEYOND, BEYOND), strict=True)
        ]
        within = self.add("Clip", [moved, *ends], f"{name}/within", RANGE)
        self.add("Round", [within], name, STRAIGHT)

    def real(self, source: str, scale: NDArray[Any], zero: NDArray[Any], name: str = "") -> str:
        """The real numbers that whole ones stand for; as a layer `name`, else by the name of the source."""
        key = (source, scale.tobytes().hex(), zero.tobytes().hex(), name)
        if (array := self.array(source)) is not None:
            return self.constant((array.astype(np.float32) - zero) * scale, f"{source}/float")
        if key not in self._real:
            name = name or f"{source}/real{len(self._real)}"
            centred = source
            if zero.any():
                centred = self.add("Sub", [source, self.constant(zero, f"{name}/zero")], f"{name}/centred")
            self._real[key] = self.add("Mul", [centred, self.constant(scale, f"{name}/scale")], name, "")
        return self._real[key]
