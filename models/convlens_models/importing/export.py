"""A torch module to `forward.onnx`: every named layer is a value of that name, weights stay in a file apart.

PyTorch's exporters are not used: the one built on torch.export cannot keep height and width dynamic behind a
pool with ceil_mode, the older one is deprecated, and both lose the layers' names. The built-in networks are a
dozen kinds of modules; `torch.fx` gives their graph, and the tables below give each its ONNX operator.

Opset 18: the oldest in which ReduceMean takes its axes as an input, as all later ones do, so that the graphs
run in the widest range of runtimes.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import fx, nn

from convlens_models import tensors
from convlens_models.architectures.same import SameConv2d
from convlens_models.graphs.normalisation import NORMALIZED, normalisation
from convlens_models.manifest import INPUT, LOG_PROBABILITIES, PROBABILITIES, Rgb
from convlens_models.repository import FORWARD, WEIGHTS

OPSET: Final = 18
IR_VERSION: Final = 10
LOGITS: Final = "logits"
TRACING: Final = threading.Lock()  # `torch.fx` patches modules that all threads share.


@dataclass
class Exported:
    """A forward graph and its layers: name to kind, None where the operator says it."""

    model: onnx.ModelProto
    layers: dict[str, str | None]
    output: str


@dataclass
class _Writer:
    """The nodes, layers and constants of the graph that is being written."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    layers: dict[str, str | None] = field(default_factory=dict)
    values: dict[fx.Node, str] = field(default_factory=dict)
    constants: list[TensorProto] = field(default_factory=list)

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """The name of an input that is a constant; an empty array stands for one that is left out."""
        if not value.size:
            return ""
        self.constants.append(numpy_helper.from_array(value, name))
        return name


class _Tracer(fx.Tracer):
    """Notes which block each value leaves, innermost first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: dict[fx.Node, list[str]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m)
        if not self.is_leaf_module(m, path) and not isinstance(m, nn.Sequential):
            self.blocks.setdefault(out.node, []).append(path)
        return out


def write(
    module: nn.Module, folder: Path, *, mean: Rgb, std: Rgb, size: int | None, heads: bool = True
) -> Exported:
    """Write the weights and the forward graph of `module` into `folder`; see `to_onnx`."""
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, folder / WEIGHTS)
    index = tensors.index(folder / WEIGHTS)
    exported = to_onnx(module, index, WEIGHTS, mean=mean, std=std, size=size, heads=heads)
    onnx.save(exported.model, folder / FORWARD)
    return exported


def to_onnx(
    module: nn.Module,
    index: Mapping[str, tensors.Entry],
    location: str,
    *,
    mean: Rgb,
    std: Rgb,
    size: int | None,
    heads: bool = True,
) -> Exported:
    """The forward graph: "image" (N, 3, H, W), RGB in [0, 1], to the logits and their (log) softmax.

    Args:
        module: made of the modules and functions of the tables below.
        index: where each of its `state_dict` tensors lies in the file `location` beside the graph.
        mean, std: of the normalisation (x - mean) / std, which becomes a part of the graph.
        size: height and width that the graph accepts; None: any.
        heads: append the softmax and its logarithm; networks that are no classifiers have none.

    Raises:
        TypeError: the module uses a part that the tables lack.
    """
    tracer = _Tracer()
    with TRACING:
        traced = tracer.trace(module)
    writer = _Writer()
    first, constants = normalisation(mean, std)
    writer.nodes.extend(first)
    for node in traced.nodes:
        _write(node, module, tracer.blocks.get(node, []), writer)
    output = next(reversed(writer.layers))
    for name, kind in HEADS if heads else ():
        writer.add(kind, [output], name, axis=1)
        writer.layers[name] = None
    used = {name for node in writer.nodes for name in node.input}
    weights = [tensors.external(name, entry, location) for name, entry in index.items() if name in used]
    outputs = [output, *(name for name, _ in HEADS if heads)]
    graph = _model(writer, [*constants, *writer.constants, *weights], outputs, size)
    return Exported(graph, writer.layers, output)


def _model(
    writer: _Writer, initializers: list[TensorProto], outputs: list[str], size: int | None
) -> onnx.ModelProto:
    sides = ("H", "W") if size is None else (size, size)
    graph = helper.make_graph(
        writer.nodes,
        "forward",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ("N", 3, *sides))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="convlens")
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)  # So that the values are declared.
    return inferred


def _write(node: fx.Node, module: nn.Module, blocks: list[str], writer: _Writer) -> None:
    if node.op == "placeholder":
        writer.values[node] = NORMALIZED
    elif node.op == "call_module":
        _write_module(node, module.get_submodule(str(node.target)), writer)
    elif node.op != "output":
        _write_function(node, blocks, writer)
    for path in blocks:
        value = writer.values[node]
        if value != path:
            writer.add("Identity", [value], path)
        writer.layers[path] = type(module.get_submodule(path)).__name__


def _write_module(node: fx.Node, layer: nn.Module, writer: _Writer) -> None:
    path, source = str(node.target), writer.values[node.all_input_nodes[0]]
    if isinstance(layer, nn.Dropout):  # Inert in evaluation.
        writer.values[node] = source
        return
    if type(layer) not in MODULES:
        raise TypeError(f"{path}: no ONNX operator is known for {type(layer).__name__}")
    kind, attributes = MODULES[type(layer)](layer)
    fixed = [
        writer.constant(f"{path}:{i}", value)
        for i, value in enumerate(CONSTANTS.get(type(layer), _none)(layer))
    ]
    keys = [f"{path}.{key}" for key in KEYS if isinstance(getattr(layer, key, None), torch.Tensor)]
    writer.add(kind, [source, *fixed, *keys], path, **attributes)
    writer.values[node] = path
    writer.layers[path] = KINDS.get(type(layer))


def _write_function(node: fx.Node, blocks: list[str], writer: _Writer) -> None:
    if node.target not in FUNCTIONS:
        raise TypeError(f"{node.name}: no ONNX operator is known for {node.target}")
    kind, attributes = FUNCTIONS[node.target](*node.args[1:])
    is_output = any(user.op == "output" for user in node.users)
    name = blocks[0] if blocks else LOGITS if is_output else f"{kind.lower()}:{node.name}"
    writer.add(kind, [writer.values[source] for source in node.all_input_nodes], name, **attributes)
    writer.values[node] = name
    if is_output:
        writer.layers[name] = None


Emitted = tuple[str, dict[str, Any]]


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _window(layer: Any, *flags: str) -> dict[str, Any]:
    """The attributes of a convolution or pool; `flags` have the same name in both libraries."""
    attributes = {
        "kernel_shape": _pair(layer.kernel_size),
        "strides": _pair(layer.stride),
        "pads": _pair(layer.padding) * 2,
    }
    if hasattr(layer, "dilation"):
        attributes["dilations"] = _pair(layer.dilation)
    return {**attributes, **{flag: int(getattr(layer, flag)) for flag in flags}}


def _same_conv(layer: SameConv2d) -> Emitted:
    attributes = _window(layer)
    del attributes["pads"]
    return "Conv", {**attributes, "group": layer.groups, "auto_pad": "SAME_UPPER"}


def _adaptive_pool(layer: Any) -> Emitted:
    # One of several positions changes nothing at the size that the network was made for, the only one taken.
    return ("GlobalAveragePool" if layer.output_size in (1, (1, 1)) else "Identity"), {}


def _upsample(layer: Any) -> Emitted:
    if layer.mode != "nearest" or layer.size is not None:
        raise TypeError(f"Upsample by {layer.mode}: only nearest neighbours by a factor are known")
    return "Resize", {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }


def _none(_: Any) -> list[NDArray[Any]]:
    return []


def _pads(layer: Any) -> list[NDArray[Any]]:
    left, right, top, bottom = layer.padding
    return [np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)]


def _bounds(layer: nn.Hardtanh) -> list[NDArray[Any]]:
    return [np.array(value, np.float32) for value in (layer.min_val, layer.max_val)]


def _scales(layer: Any) -> list[NDArray[Any]]:
    vertical, horizontal = _pair(int(layer.scale_factor))
    return [np.zeros(0, np.float32), np.array([1, 1, vertical, horizontal], np.float32)]


HEADS: Final = ((PROBABILITIES, "Softmax"), (LOG_PROBABILITIES, "LogSoftmax"))
KEYS: Final = ("weight", "bias", "running_mean", "running_var")
MODULES: Final[dict[type[nn.Module], Callable[[Any], Emitted]]] = {
    nn.Conv2d: lambda layer: ("Conv", {**_window(layer), "group": layer.groups}),
    SameConv2d: _same_conv,
    nn.ReLU: lambda _: ("Relu", {}),
    nn.ReLU6: lambda _: ("Clip", {}),
    nn.MaxPool2d: lambda layer: ("MaxPool", _window(layer, "ceil_mode")),
    nn.AvgPool2d: lambda layer: ("AveragePool", _window(layer, "ceil_mode", "count_include_pad")),
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.BatchNorm2d: lambda layer: ("BatchNormalization", {"epsilon": layer.eps}),
    nn.InstanceNorm2d: lambda layer: ("InstanceNormalization", {"epsilon": layer.eps}),
    nn.ReflectionPad2d: lambda _: ("Pad", {"mode": "reflect"}),
    nn.Upsample: _upsample,
    nn.Sigmoid: lambda _: ("Sigmoid", {}),
    nn.Hardtanh: lambda _: ("Clip", {}),
    nn.Linear: lambda _: ("Gemm", {"transB": 1}),
}
KINDS: Final[dict[type[nn.Module], str]] = {nn.ReLU6: "Relu6"}
"""What layers are called whose operator does not say it."""
CONSTANTS: Final[dict[type[nn.Module], Callable[[Any], list[NDArray[Any]]]]] = {
    nn.ReflectionPad2d: _pads,
    nn.Upsample: _scales,
    nn.ReLU6: _bounds,
    nn.Hardtanh: _bounds,
}
"""Inputs of an operator that are no weights, before those that are."""
FUNCTIONS: Final[dict[Any, Callable[..., Emitted]]] = {
    torch.cat: lambda axis: ("Concat", {"axis": axis}),
    torch.flatten: lambda axis: ("Flatten", {"axis": axis}),
    "flatten": lambda axis: ("Flatten", {"axis": axis}),
    operator.add: lambda _: ("Add", {}),
}


def is_dynamic(module: nn.Module) -> bool:
    """Whether the network accepts any height and width: all its adaptive pools leave one position."""
    pools = (layer for layer in module.modules() if isinstance(layer, nn.AdaptiveAvgPool2d))
    return all(layer.output_size in (1, (1, 1)) for layer in pools)
