"""A network written twice as it is built: as ONNX nodes, and as a float64 torch computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from convlens_models.graphs.autodiff import ReluRule, differentiate, gradient_name

Tensor = torch.Tensor


class ReluReference(torch.autograd.Function):
    """The three ReLU rules, from their papers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: ReluRule) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rule = rule
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        by_activation = g if ctx.rule is ReluRule.DECONVNET else g * (x > 0)
        return (by_activation if ctx.rule is ReluRule.GRADIENT else by_activation.clamp(min=0)), None


class Pair:
    """Appends an ONNX node and evaluates its torch reference at the same time; values go by ONNX names."""

    def __init__(self, image: np.ndarray, rule: ReluRule = ReluRule.GRADIENT, opset: int = 18) -> None:
        self.image, self.rule, self.opset = image.astype(np.float32), rule, opset
        self.values = {"image": torch.from_numpy(self.image).double().requires_grad_()}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def const(self, array: np.ndarray) -> str:
        """An initializer."""
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        self.values[name] = torch.from_numpy(array.astype(np.float64))
        return name

    def op(
        self, kind: str, *inputs: str, ref: Callable[..., Any], outputs: int = 1, **attributes: Any
    ) -> Any:
        """Append a node; `ref` maps the torch values of the inputs to those of the outputs."""
        names = [
            f"{kind.lower()}{len(self.nodes)}" + (f".{i}" if outputs > 1 else "") for i in range(outputs)
        ]
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        result = ref(*(self.values[name] for name in inputs if name))
        self.values.update(zip(names, result if outputs > 1 else [result], strict=True))
        return names[0] if outputs == 1 else names

    def relu(self, x: str) -> str:
        """A ReLU under the rule of this pair."""
        return str(self.op("Relu", x, ref=lambda value: ReluReference.apply(value, self.rule)))

    def model(self, sizes: tuple[Any, ...] = ("N", 3, "H", "W")) -> onnx.ModelProto:
        """The ONNX model; all values are reachable, the last one is the output."""
        sizes = (sizes[0], self.image.shape[1], *sizes[2:])
        graph = helper.make_graph(
            self.nodes,
            "pair",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, sizes)],
            [helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)

    def errors(self, layer: str = "", seed: int = 0, wrt: str = "image") -> dict[str, tuple[float, float]]:
        """Relative L2 errors of (value, gradient by `wrt`) at `layer`, with open and with fixed sizes."""
        layer = layer or self.nodes[-1].output[0]
        expected = self.values[layer]
        cotangent = torch.from_numpy(
            np.random.default_rng(seed).standard_normal(expected.shape).astype(np.float32)
        )
        (gradient,) = torch.autograd.grad(expected, self.values[wrt], cotangent.double(), retain_graph=True)
        batch, _, height, width = self.image.shape
        shapes = {"open": None, "batch": (None, height, width), "fixed": (batch, height, width)}
        distances = {}
        for name, shape in shapes.items():
            graph = differentiate(self.model(), layer, self.rule, shape, wrt)
            onnx.checker.check_model(graph, full_check=True)
            feeds = {"image": self.image, "cotangent": cotangent.numpy()}
            outputs = session(graph).run([layer, gradient_name(wrt)], feeds)
            distances[name] = (distance(outputs[0], expected), distance(outputs[1], gradient))
        return distances


def session(model: onnx.ModelProto, folder: Path | None = None) -> ort.InferenceSession:
    """A session on one thread, without ONNX Runtime's warnings; external weights lie in `folder`."""
    options = ort.SessionOptions()
    if folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def distance(actual: np.ndarray, expected: Tensor) -> float:
    """Relative L2 distance; the plain one where nothing but zeros is expected."""
    reference = expected.detach().numpy()
    assert actual.shape == reference.shape
    return float(np.linalg.norm(actual - reference) / (np.linalg.norm(reference) or 1.0))
