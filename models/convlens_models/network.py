"""A stored network as a torch module, for techniques that need autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_models.architectures import ARCHITECTURES
from convlens_models.graphs.surgery import LEAST_SQUARE
from convlens_models.log_softmax import log_softmax, softmax
from convlens_models.manifest import LOG_PROBABILITIES, PROBABILITIES, Rgb
from convlens_models.redirected_relu import redirected
from convlens_models.repository import WEIGHTS, StoredModel

HEADS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "logits": lambda logits: logits,
    PROBABILITIES: softmax,
    LOG_PROBABILITIES: log_softmax,
}
"""Layers that are no modules: functions of the logits."""


class Network(nn.Module):
    """A classifier of RGB in [0, 1]: normalisation, then `module`; in evaluation mode, weights frozen.

    >>> network = Network(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()), mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> [tuple(value.shape) for value in network.taps(torch.rand(1, 3, 8, 8), ["1"]).values()]
    [(1, 2, 6, 6)]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Rgb, std: Rgb) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W) in [0, 1]."""
        logits: Tensor = self.module((images - self.mean) / self.std)
        return logits

    def taps(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """The values of `layers` for images (N, 3, H, W) in [0, 1], in the order asked for.

        The pass ends as soon as the last of them is known. Values stay in the autograd graph.

        Raises:
            InvalidArgument: a layer is none of the network's.
        """
        wanted = list(dict.fromkeys(layers))
        modules = dict(self.module.named_modules())
        if unknown := [name for name in wanted if name not in HEADS and name not in modules]:
            raise InvalidArgument.of("layers", unknown[0], "a layer of the network")
        inner = {name: modules[name] for name in wanted if name not in HEADS}
        values: dict[str, Tensor] = {}
        with _collecting(inner, values, stop=len(inner) == len(wanted)):
            logits = self(images)
            values.update({name: head(logits) for name, head in HEADS.items() if name in wanted})
        return {name: values[name] for name in wanted}

    def redirected(self) -> AbstractContextManager[None]:
        """Within it, gradients of what is to become small get through ReLUs that are closed everywhere."""
        return redirected(self)

    def average_pooled(self, factor: float = 1.0, power: int = 1) -> Network:
        """The same network, weights shared, whose max pools take the average, times `factor`.

        Gradients then reach every pixel of a window: pictures are smoother (Gatys et al. 2015). With `power`
        2 it is the root mean square of each window.
        """
        twin = copy.deepcopy(self, {id(value): value for value in (*self.parameters(), *self.buffers())})
        for name, module in list(twin.named_modules()):
            if isinstance(module, nn.MaxPool2d):
                parent, _, key = name.rpartition(".")
                setattr(twin.get_submodule(parent), key, _AveragePool(module, factor, power))
        return twin


class _AveragePool(nn.AvgPool2d):
    """The windows of a max pool, averaged; what lies outside the picture does not count."""

    def __init__(self, pool: nn.MaxPool2d, factor: float, power: int) -> None:
        super().__init__(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, count_include_pad=False)
        self.factor, self.power = factor, power

    def forward(self, x: Tensor) -> Tensor:
        """Averages, or root mean squares, times the factor; these have no gradient at windows of zeros."""
        if self.power == 1:
            return super().forward(x) * self.factor
        return super().forward(x.square()).clamp_min(LEAST_SQUARE).sqrt() * self.factor


class _Done(Exception):
    """Ends a forward pass once the values of all wanted layers are known."""


@contextmanager
def _collecting(modules: dict[str, nn.Module], values: dict[str, Tensor], stop: bool) -> Iterator[None]:
    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            values[name] = output
            if stop and len(values) == len(modules):
                raise _Done

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield
    except _Done:
        pass
    finally:
        for handle in handles:
            handle.remove()


def load_network(stored: StoredModel, device: str | torch.device = "cpu") -> Network:
    """The network of a stored model on `device`, to be differentiated by its input.

    Raises:
        FailedPrecondition: the model came as an ONNX graph.
        DataLoss: its weights do not match their digest.
    """
    manifest = stored.manifest
    if manifest.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise FailedPrecondition(
            f"model {manifest.name!r} has architecture {manifest.architecture!r}: jobs need one of {known}"
        )
    with torch.device("meta"):
        module = ARCHITECTURES[manifest.architecture].build(len(manifest.labels))
    module.load_state_dict(load_file(stored.file(WEIGHTS)), assign=True)
    return Network(module, manifest.mean, manifest.std).to(device)
