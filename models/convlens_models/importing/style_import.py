"""Brings style networks into the model repository: the built-in architecture with a user's weights.

Keys are its own, or those of TransformerNet in pytorch/examples (fast_neural_style), the layout of most
networks that people have trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from convlens_models.architectures.fast_style import FastStyle
from convlens_models.graphs import layers
from convlens_models.importing import export, publish, verify
from convlens_models.importing.weights import check_keys
from convlens_models.manifest import INPUT, Layer, Manifest
from convlens_models.repository import ModelRepository
from convlens_models.style_networks import FAST_STYLE, FIRST, LAST, PIXELS, TRANSFORMER_NET, WIDTH

SIZE: Final = 256
MIN_SIZE: Final = 16
"""Below, the reflected border of the innermost maps is wider than the map."""
STYLE: Final = "style"
OUTPUT: Final = "painted"
THEIRS: Final[Mapping[str, str]] = {
    **{f"conv{n}.conv2d": f"down.{4 * n - 3}" for n in (1, 2, 3)},
    **{f"in{n}": f"down.{4 * n - 2}" for n in (1, 2, 3)},
    **{
        f"res{n}.{theirs}": f"residuals.{n - 1}.body.{ours}"
        for n in range(1, 6)
        for theirs, ours in (("conv1.conv2d", 1), ("in1", 2), ("conv2.conv2d", 5), ("in2", 6))
    },
    **{"deconv1.conv2d": "up.2", "in4": "up.3", "deconv2.conv2d": "up.7", "in5": "up.8"},
    "deconv3.conv2d": LAST,
}
"""Our layers by TransformerNet's."""
THEIR_FIRST: Final = "conv1.conv2d.weight"
DEPRECATED: Final = ("running_mean", "running_var", "num_batches_tracked")
"""Of instance norms: old files have them, nothing reads them."""
ENDS: Final[Mapping[str, tuple[Callable[[], nn.Module], str]]] = {
    FAST_STYLE: (nn.Sigmoid, "Sigmoid"),
    TRANSFORMER_NET: (lambda: nn.Hardtanh(0.0, 1.0), "Clip"),
}
"""The last layer of each architecture, and its operator."""


def add_style(
    root: Path,
    state: Mapping[str, Tensor],
    name: str = FAST_STYLE,
    *,
    architecture: str = FAST_STYLE,
    parent: str = "",
) -> Manifest:
    """Add a fast-style network with the weights `state` to the repository in the folder `root`.

    Nothing is differentiated: no operator of it needs a VJP rule. Where the newest version of `name` is this
    very network, nothing is added and that version is given back.

    Args:
        state: in our keys, or TransformerNet's.
        architecture: of weights in our keys.
        parent: version that its training went on from, "name/version".

    Raises:
        InvalidArgument: an unusable name, that of a classifier, or weights that do not fit; names the key.
    """
    publish.check_kind(ModelRepository(root), name, STYLE)
    if THEIR_FIRST in state:
        state, architecture = from_transformer_net(state), TRANSFORMER_NET
    module, pixels = load_fast_style(state, architecture), PIXELS[architecture]
    with publish.staging(root) as folder:
        exported = export.write(module, folder, mean=pixels.mean, std=pixels.std, size=None, heads=False)
        images = {INPUT: verify.noise(1, MIN_SIZE)}
        (painted,) = verify.run(exported.model, folder, [exported.output], images)
        verify.check_finite({"the output": painted})
        manifest = Manifest(
            name=name,
            version=1,
            architecture=architecture,
            task=STYLE,
            input_size=SIZE,
            min_size=MIN_SIZE,
            dynamic_size=True,
            mean=pixels.mean,
            std=pixels.std,
            labels=(),
            layers=(_painted(exported.output, ENDS[architecture][1]),),
            output=OUTPUT,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            multiply_adds=layers.multiply_adds(exported.model, SIZE),
            files={},
            parent=parent,
        )
        return publish.publish(folder, root, manifest, once=True)


def load_fast_style(state: Mapping[str, Tensor], architecture: str = FAST_STYLE) -> FastStyle:
    """The network for inference. Raises InvalidArgument for weights that do not fit."""
    module = _empty(state.get(FIRST), architecture)
    check_keys(state, module.state_dict())
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def from_transformer_net(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """TransformerNet's weights in our keys, those of the last layer for pixels in [0, 1].

    Raises:
        InvalidArgument: a key is missing, unknown or of another shape; names it as the file does.
    """
    dropped = {f"{layer}.{name}" for layer in THEIRS for name in DEPRECATED}
    theirs = {key: value for key, value in state.items() if key not in dropped}
    wanted = _empty(theirs[THEIR_FIRST], TRANSFORMER_NET).state_dict()
    renamed = {
        f"{layer}.{kind}": f"{THEIRS[layer]}.{kind}" for layer in THEIRS for kind in ("weight", "bias")
    }
    check_keys(theirs, {key: wanted[ours] for key, ours in renamed.items()})
    ours = {own: theirs[key] for key, own in renamed.items()}
    white = PIXELS[TRANSFORMER_NET].white
    return {key: value / white if key.startswith(LAST) else value for key, value in ours.items()}


def _empty(first: Tensor | None, architecture: str) -> FastStyle:
    """The network as wide as the kernel of its first layer says, without weights."""
    width = WIDTH if first is None or not first.ndim else len(first)
    with torch.device("meta"):
        return FastStyle(width, ENDS[architecture][0]())


def _painted(tensor: str, kind: str) -> Layer:
    """The output; instance norm lets every pixel see the whole image."""
    return Layer(
        name=OUTPUT,
        kind=kind,
        tensor=tensor,
        shape=(3, SIZE, SIZE),
        stride=1,
        receptive_field=SIZE,
        receptive_field_start=(SIZE - 1) / 2,
    )
