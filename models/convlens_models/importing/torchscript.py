"""The TorchScript form of a network, `model.ts`: the same layers and gradients as the ONNX graphs.

PyTorch has deprecated TorchScript; it is the second engine, for hosts that run it. The file holds two
traces of the network over the same weights, `forward` and `deconvnet`, which return the values of all layers,
and the layers' names. Gradients are autograd's. The three ReLU rules:

    gradient         as it is
    guided_backprop  the incoming signal is clamped at 0 on its way into every ReLU
    deconvnet        the same, in the trace whose ReLUs pass every gradient: x + (relu(x) - x).detach()
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convlens.errors import DataLoss, InvalidArgument
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.manifest import LOG_PROBABILITIES, PROBABILITIES
from convlens_models.network import HEADS, Network
from convlens_models.redirected_relu import RELUS, relus_as

NAMES: Final = "layers.json"

Cotangent = NDArray[np.float32] | Callable[[NDArray[np.float32]], NDArray[np.float32]]


class ScriptedNetwork:
    """A `model.ts` ready to run on the CPU; calls may come from several threads."""

    def __init__(self, script: Any, layers: list[str], rectifiers: list[str]) -> None:
        self._script = script
        self._layers = layers
        self._rectifiers = rectifiers

    def forward(self, images: NDArray[np.float32], layers: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The values of `layers` for images (N, 3, H, W) in [0, 1]."""
        with torch.no_grad():
            values = self._run("forward", torch.tensor(images), layers)
        return {name: values[name].numpy() for name in layers}

    def gradient(
        self,
        images: NDArray[np.float32],
        layer: str,
        cotangent: Cotangent,
        rule: ReluRule | str = ReluRule.GRADIENT,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The value of `layer` and d <cotangent, value> / d images under a ReLU rule, of the images' shape.

        Args:
            cotangent: of the value's shape, or a function that makes it of the value.
        """
        rule = ReluRule(rule)
        pixels = torch.tensor(images, requires_grad=True)
        values = self._run("deconvnet" if rule is ReluRule.DECONVNET else "forward", pixels, [layer])
        if rule is not ReluRule.GRADIENT:
            for name in self._rectifiers:
                values[name].register_hook(_clamp)  # type: ignore[no-untyped-call]
        value = values[layer].detach().numpy()
        signal = cotangent(value) if callable(cotangent) else cotangent
        (gradient,) = torch.autograd.grad(values[layer], pixels, torch.tensor(signal))
        return value, gradient.numpy()

    def inner_gradient(
        self, images: NDArray[np.float32], layer: str, cotangent: NDArray[np.float32], wrt: str
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """The values of `layer` and `wrt`, and d <cotangent, value of layer> / d value of wrt.

        Raises:
            InvalidArgument: `layer` does not depend on `wrt`.
        """
        values = self._run("forward", torch.tensor(images, requires_grad=True), [layer, wrt])
        value, inner = values[layer], values[wrt]
        (gradient,) = torch.autograd.grad(value, inner, torch.tensor(cotangent), allow_unused=True)
        if gradient is None or layer == wrt:
            raise InvalidArgument.of("layer", layer, f"a floating-point value that depends on the {wrt}")
        return value.detach().numpy(), inner.detach().numpy(), gradient.numpy()

    def _run(self, method: str, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if unknown := [name for name in layers if name not in self._layers]:
            raise InvalidArgument.of("layer", unknown[0], "a layer of the network")
        # The optimising executor fuses operators, and the hooks would miss what flows inside.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            values = getattr(self._script, method)(pixels)
        found = dict(zip(self._layers, values, strict=True))
        if wanted := [name for name in layers if name in (PROBABILITIES, LOG_PROBABILITIES)]:
            logits = found[self._layers[self._layers.index(PROBABILITIES) - 1]]
            found |= {name: HEADS[name](logits) for name in wanted}  # More exact than a trace can be.
        return found


def load(path: Path) -> ScriptedNetwork:
    """Read a `model.ts`. Raises DataLoss when it is damaged or not one of ours."""
    extra = {NAMES: b""}
    try:
        with _deprecation_known():
            script = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location="cpu", _extra_files=extra
            )
        names = json.loads(extra[NAMES])
    except (RuntimeError, ValueError) as error:
        raise DataLoss(f"{path} is not a TorchScript network of ConvLens: {error}") from error
    return ScriptedNetwork(script, names["layers"], names["rectifiers"])


def save(network: Network, layers: Sequence[str], size: int, path: Path) -> None:
    """Trace `network` on a square image of `size` pixels and write `model.ts`."""
    rectifiers = {name for name, part in network.module.named_modules() if isinstance(part, RELUS)}
    names = {"layers": list(layers), "rectifiers": [name for name in layers if name in rectifiers]}
    example = torch.zeros(1, 3, size, size)
    with _deprecation_known(), torch.no_grad():
        traced = torch.jit.trace_module(  # type: ignore[no-untyped-call]
            _AllLayers(network, list(layers)), {"forward": example, "deconvnet": example}, check_trace=False
        )
        torch.jit.save(traced, str(path), _extra_files={NAMES: json.dumps(names)})


class _AllLayers(nn.Module):
    """What is traced: every layer's value, with both kinds of ReLU."""

    def __init__(self, network: Network, layers: list[str]) -> None:
        super().__init__()
        self.network = network
        self._layers = layers

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.taps(images, self._layers).values())

    def deconvnet(self, images: Tensor) -> tuple[Tensor, ...]:
        with relus_as(self.network, _passing_gradients):
            return self.forward(images)


def _clamp(signal: Tensor) -> Tensor:
    return signal.clamp(min=0)


def _passing_gradients(value: Tensor, most: float) -> Tensor:
    """A ReLU, whose values are at most `most`, with the gradient of the identity."""
    return value + (value.clamp(0, most) - value).detach()


@contextmanager
def _deprecation_known() -> Iterator[None]:
    """Silences PyTorch's word on TorchScript, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is", DeprecationWarning)
        yield
