"""A user's file computed in float64 by ONNX's own reference, as the oracle of gradients.

What is computed here is the file as it was written, not our graph: an error of ours is none of its own. The
reference's convolutions and pools are too slow for pictures, so PyTorch computes those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional

from convlens_models.graphs import surgery
from convlens_models.importing.inputs import read_inputs

Array = NDArray[Any]

FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
TYPES: Final = ("to", "dtype", "stash_type")
"""Attributes that name a type."""
STASHING: Final = ("LayerNormalization", "GroupNormalization", "RMSNormalization")
"""Operators that compute in the type `stash_type`, float32 unless it is said."""
ROUNDING: Final = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger")
"""Operators whose outputs are steps: they have no slope that differences could measure."""


class Exact:
    """The value `output` of a file's graph, in float64; None: its first output.

    Args:
        model: with its weights.
    """

    def __init__(self, model: onnx.ModelProto, output: str | None) -> None:
        kinds = {node.op_type for node in model.graph.node}
        self.rounds = not kinds.isdisjoint(ROUNDING)
        _widen(model)
        (self._source,) = (info.name for info in read_inputs(model.graph))
        wanted = output or model.graph.output[0].name
        del model.graph.output[1:]
        model.graph.output[0].name = wanted
        nodes = model.graph.node
        needed = surgery.ancestors(model.graph, [wanted])
        surgery.replace(nodes, [node for node in nodes if needed.intersection(node.output)])
        self._evaluator = ReferenceEvaluator(
            model, new_ops=[Conv, ConvTranspose, MaxPool, AveragePool, Sigmoid, Erf, Gelu]
        )

    def value(self, pixels: Array) -> Array:
        """The value for pixels as the file takes them."""
        with np.errstate(all="ignore"):
            (value,) = self._evaluator.run(None, {self._source: pixels})
        return np.asarray(value, np.float64)


def _widen(model: onnx.ModelProto) -> None:
    """Make all floating-point numbers of `model` float64."""
    for info in (*model.graph.input, *model.graph.output):
        if info.type.tensor_type.elem_type in FLOATS:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        _widen_tensor(tensor)
    _widen_nodes(model.graph.node)
    for function in model.functions:
        _widen_nodes(function.node)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in FLOATS:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _widen_nodes(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        if node.op_type in STASHING and "stash_type" not in {each.name for each in node.attribute}:
            node.attribute.append(onnx.helper.make_attribute("stash_type", TensorProto.FLOAT))
        for attribute in node.attribute:
            if attribute.name in TYPES and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
            elif attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                for tensor in attribute.g.initializer:
                    _widen_tensor(tensor)
                _widen_nodes(attribute.g.node)
        given = node.attribute[0] if node.op_type == "Constant" else None
        if given is not None and given.name in ("value_float", "value_floats"):
            number = given.f if given.name == "value_float" else list(given.floats)
            tensor = numpy_helper.from_array(np.array(number, np.float64))
            given.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def _pads(x: Array, kernel: Sequence[int], given: dict[str, Any]) -> tuple[list[int], list[int]]:
    """What is padded before and behind each axis."""
    axes = len(kernel)
    mode = given["auto_pad"] or "NOTSET"
    if mode == "NOTSET":
        pads = given["pads"] or [0] * 2 * axes
        return list(pads[:axes]), list(pads[axes:])
    if mode == "VALID":
        return [0] * axes, [0] * axes
    strides, dilations = given["strides"] or [1] * axes, given["dilations"] or [1] * axes
    sizes = zip(x.shape[2:], kernel, strides, dilations, strict=True)
    sums = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in sizes]
    small, large = [pad // 2 for pad in sums], [pad - pad // 2 for pad in sums]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _padded(x: Array, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> torch.Tensor:
    flat = [pad for pair in reversed([*zip(begin, end, strict=True)]) for pad in pair]
    return functional.pad(_tensor(x), flat, value=value)


def _windows(x: Array, kernel: Sequence[int], value: float, given: dict[str, Any]) -> torch.Tensor:
    """The windows of a pool, [N, C, places..., taps]; in the pads and beyond, for ceil_mode, lies `value`."""
    axes = len(kernel)
    strides, dilations = given["strides"] or [1] * axes, given["dilations"] or [1] * axes
    begin, end = _pads(x, kernel, given)
    places = list[int]()
    for i in range(axes):
        reach = dilations[i] * (kernel[i] - 1) + 1
        room = x.shape[2 + i] + begin[i] + end[i] - reach
        count = (-(-room // strides[i]) if given["ceil_mode"] else room // strides[i]) + 1
        if given["ceil_mode"] and (count - 1) * strides[i] >= x.shape[2 + i] + begin[i]:
            count -= 1  # A window that starts in the pads behind is none.
        places.append(count)
        end[i] = max(end[i], (count - 1) * strides[i] + reach - x.shape[2 + i] - begin[i])
    windows = _padded(x, begin, end, value)
    for i in range(axes):
        reach = dilations[i] * (kernel[i] - 1) + 1
        windows = windows.unfold(2 + i, reach, strides[i]).narrow(2 + i, 0, places[i])
        windows = windows[..., :: dilations[i]]
    return windows.flatten(2 + axes)


class Conv(OpRun):
    """The convolution of any number of axes."""

    op_domain = ""

    def _run(
        self, x: Array, w: Array, b: Array | None = None, *,
        auto_pad: str | None = None, dilations: Any = None, group: int | None = None,
        kernel_shape: Any = None, pads: Any = None, strides: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        given = {"auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations}
        axes = w.ndim - 2
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
        padded = _padded(x, *_pads(x, w.shape[2:], given))
        bias = None if b is None else _tensor(b)
        options = {"stride": tuple(strides or [1] * axes), "dilation": tuple(dilations or [1] * axes)}
        return (convolve(padded, _tensor(w), bias, groups=group or 1, **options).numpy(),)


class ConvTranspose(OpRun):
    """The transposed convolution, for pads that are stated."""

    op_domain = ""

    def _run(
        self, x: Array, w: Array, b: Array | None = None, *,
        auto_pad: str | None = None, dilations: Any = None, group: int | None = None,
        kernel_shape: Any = None, output_padding: Any = None, output_shape: Any = None, pads: Any = None,
        strides: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        axes = w.ndim - 2
        transpose = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
        options = {"stride": tuple(strides or [1] * axes), "dilation": tuple(dilations or [1] * axes)}
        extra = tuple(output_padding or [0] * axes)
        bias = None if b is None else _tensor(b)
        full = transpose[axes - 1](
            _tensor(x), _tensor(w), bias, groups=group or 1, output_padding=extra, **options
        )
        cut = pads or [0] * 2 * axes
        for i in range(axes):
            full = full.narrow(2 + i, cut[i], full.shape[2 + i] - cut[i] - cut[axes + i])
        return (full.numpy(),)


class MaxPool(OpRun):
    """The largest value of each window."""

    op_domain = ""

    def _run(
        self, x: Array, *, auto_pad: str | None = None, ceil_mode: int | None = None, dilations: Any = None,
        kernel_shape: Any = None, pads: Any = None, storage_order: int | None = None, strides: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        given = {"auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations}
        windows = _windows(x, kernel_shape, -np.inf, given | {"ceil_mode": ceil_mode or 0})
        return (windows.amax(-1).numpy(),)


class AveragePool(OpRun):
    """The mean of each window; of what lies in the input alone unless pads count."""

    op_domain = ""

    def _run(
        self, x: Array, *, auto_pad: str | None = None, ceil_mode: int | None = None,
        count_include_pad: int | None = None, dilations: Any = None, kernel_shape: Any = None,
        pads: Any = None, strides: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        given = {"auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations}
        given["ceil_mode"] = ceil_mode or 0
        inside = np.ones((1, 1, *x.shape[2:]))
        if count_include_pad:
            begin, end = _pads(x, kernel_shape, given)
            inside = _padded(inside, begin, end, 1.0).numpy()
            x = _padded(x, begin, end).numpy()
            given |= {"auto_pad": None, "pads": None}
        sums = _windows(x, kernel_shape, 0.0, given).sum(-1)
        return ((sums / _windows(inside, kernel_shape, 0.0, given).sum(-1)).numpy(),)


class Sigmoid(OpRun):
    """1 / (1 + exp(-x)) of each number x."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (torch.sigmoid(_tensor(x)).numpy(),)


class Erf(OpRun):
    """The error function."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (torch.erf(_tensor(x)).numpy(),)


class Gelu(OpRun):
    """Hendrycks, Gimpel 2016, arXiv:1606.08415; the reference's own computes in float32."""

    op_domain = ""

    def _run(self, x: Array, *, approximate: str | None = None) -> tuple[Array]:
        return (functional.gelu(_tensor(x), approximate=approximate or "none").numpy(),)
