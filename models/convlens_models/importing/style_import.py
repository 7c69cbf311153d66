"""Brings style networks into the model repository: the built-in architecture with a user's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from convlens_models.architectures.base import HALF
from convlens_models.architectures.fast_style import FastStyle
from convlens_models.graphs import layers
from convlens_models.importing import export, publish, verify
from convlens_models.importing.weights import check_state
from convlens_models.manifest import INPUT, Layer, Manifest
from convlens_models.repository import ModelRepository

FAST_STYLE: Final = "fast_style"
SIZE: Final = 256
MIN_SIZE: Final = 16
"""Below, the reflected border of the innermost maps is wider than the map."""
STYLE: Final = "style"
OUTPUT: Final = "painted"
FIRST: Final = "down.1.weight"
"""The first layer's kernel, whose filters are the network's width."""


def add_style(root: Path, state: Mapping[str, Tensor], name: str = FAST_STYLE) -> Manifest:
    """Add a fast-style network with the weights `state` to the repository in the folder `root`.

    Nothing is differentiated: no operator of it needs a VJP rule. Where the newest version of `name` is this
    very network, nothing is added and that version is given back.

    Raises:
        InvalidArgument: an unusable name, that of a classifier, or weights that do not fit; names the key.
    """
    publish.check_kind(ModelRepository(root), name, STYLE)
    module = load_fast_style(state)
    with publish.staging(root) as folder:
        exported = export.write(module, folder, mean=HALF, std=HALF, size=None, heads=False)
        images = {INPUT: verify.noise(1, MIN_SIZE)}
        (painted,) = verify.run(exported.model, folder, [exported.output], images)
        verify.check_finite({"the output": painted})
        manifest = Manifest(
            name=name,
            version=1,
            architecture=FAST_STYLE,
            task=STYLE,
            input_size=SIZE,
            min_size=MIN_SIZE,
            dynamic_size=True,
            mean=HALF,
            std=HALF,
            labels=(),
            layers=(_painted(exported.output),),
            output=OUTPUT,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            multiply_adds=layers.multiply_adds(exported.model, SIZE),
            files={},
        )
        return publish.publish(folder, root, manifest, once=True)


def load_fast_style(state: Mapping[str, Tensor]) -> FastStyle:
    """The network for inference. Raises InvalidArgument for weights that do not fit."""
    with torch.device("meta"):
        module = FastStyle(len(state[FIRST])) if FIRST in state and state[FIRST].ndim else FastStyle()
    check_state(state, module)
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def _painted(tensor: str) -> Layer:
    """The output; instance norm lets every pixel see the whole image."""
    return Layer(
        name=OUTPUT,
        kind="Sigmoid",
        tensor=tensor,
        shape=(3, SIZE, SIZE),
        stride=1,
        receptive_field=SIZE,
        receptive_field_start=(SIZE - 1) / 2,
    )
