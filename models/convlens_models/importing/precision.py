"""Files in half or double precision, computed in float32."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from convlens.errors import InvalidArgument
from convlens_models.importing.upgrade import graphs

OTHERS: Final = (TensorProto.FLOAT16, TensorProto.DOUBLE)
UNUSABLE: Final = (TensorProto.BFLOAT16, *range(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2FNUZ + 1))
PRECISION: Final = "the file is in "
"""How the note begins."""
TYPED: Final = ("to", "dtype", "output_dtype", "stash_type")
"""Attributes that name a type of numbers."""


def single(model: onnx.ModelProto) -> list[str]:
    """Make all floating-point numbers of `model` float32, in place; what is to be told of it.

    Raises:
        InvalidArgument: bfloat16 or float8, or a weight beyond float32; names it.
    """
    found = set[int]()
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            found.add(tensor.data_type)
            _convert(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in TYPED and attribute.i in (*OTHERS, *UNUSABLE):
                    found.add(attribute.i)
                    attribute.i = TensorProto.FLOAT
                if attribute.HasField("t"):
                    found.add(attribute.t.data_type)
                    _convert(attribute.t)
        for info in (*graph.input, *graph.output):
            found.add(info.type.tensor_type.elem_type)
            if info.type.tensor_type.elem_type in OTHERS:
                info.type.tensor_type.elem_type = TensorProto.FLOAT
    if unusable := found.intersection(UNUSABLE):
        shown = TensorProto.DataType.Name(unusable.pop())
        raise InvalidArgument.of("model.precision", shown, "FLOAT, FLOAT16 or DOUBLE: export it in float32")
    if not (others := found.intersection(OTHERS)):
        return []
    del model.graph.value_info[:]
    shown = " and ".join(TensorProto.DataType.Name(kind) for kind in sorted(others))
    return [f"{PRECISION}{shown}: values and gradients are computed in float32"]


def _convert(tensor: onnx.TensorProto) -> None:
    """Make a tensor of other floating-point numbers one of float32, in place."""
    if tensor.data_type not in OTHERS:
        return
    exact = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        value: Any = exact.astype(np.float32)
    if (np.isfinite(exact) != np.isfinite(value)).any():
        raise InvalidArgument.of("model", f"numbers of {tensor.name!r}", "within those of float32")
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(value, name))
