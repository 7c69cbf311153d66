"""Brings networks into the model repository: built-in architectures with a user's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from convlens.errors import InvalidArgument
from convlens_models.architectures import ARCHITECTURES
from convlens_models.architectures.base import Architecture
from convlens_models.graphs import layers
from convlens_models.graphs.normalisation import check_normalisation
from convlens_models.importing import export, publish, verify
from convlens_models.importing import torchscript as scripting
from convlens_models.importing.labels import load_classes
from convlens_models.importing.weights import aligned, check_state, load_state, with_head
from convlens_models.manifest import Manifest, Rgb
from convlens_models.network import Network
from convlens_models.repository import TORCHSCRIPT

UNPUBLISHED: Final = 1


def add_architecture(
    root: Path,
    architecture: str,
    weights: Path,
    labels: Path | None = None,
    name: str | None = None,
    *,
    torchscript: bool = False,
    mean: Rgb | None = None,
    std: Rgb | None = None,
) -> Manifest:
    """Add a built-in network with `weights` to the repository in the folder `root`, as its newest version.

    Args:
        architecture: one of `ARCHITECTURES`.
        weights: a `.safetensors`, `.pth` or `.pt` file with torchvision's keys; the number of classes is that
            of the last layer.
        labels: one name a line, or TSV with the name last and perhaps a WordNet id; None: "class 0", ...
        name: in the repository; None: that of the architecture.
        torchscript: also store `model.ts`, and run the model by the TorchScript engine.
        mean, std: of the normalisation of RGB in [0, 1]; None: what the architecture's released weights want.

    Raises:
        InvalidArgument: unknown architecture, unusable name, weights that do not fit, wrong number of labels.
    """
    if architecture not in ARCHITECTURES:
        raise InvalidArgument.of("architecture", architecture, f"one of {', '.join(sorted(ARCHITECTURES))}")
    name = publish.check_name(name or architecture)
    plan = ARCHITECTURES[architecture]
    module = load_module(plan, load_state(weights))
    classes = module.get_submodule(plan.head).get_parameter("bias").numel()
    mean, std = check_normalisation(mean or plan.mean, std or plan.std)
    called = load_classes(labels, classes)
    with publish.staging(root) as folder:
        manifest = write_network(folder, module, plan, mean, std)
        update = {"name": name, "architecture": architecture, **called._asdict()}
        if torchscript:
            values = [layer.name for layer in manifest.layers]
            scripting.save(Network(module, mean, std), values, manifest.input_size, folder / TORCHSCRIPT)
            update["engine"] = "torchscript"
        return publish.publish(folder, root, manifest.model_copy(update=update))


def load_module(plan: Architecture, state: Mapping[str, Tensor]) -> nn.Module:
    """The network of `plan` for inference with the weights `state`.

    Raises:
        InvalidArgument: they do not fit; names the key.
    """
    with torch.device("meta"):
        names = plan.build(1).state_dict()
    state = with_head(aligned(state, names), plan.head)
    classes = len(state[f"{plan.head}.bias"])
    with torch.device("meta"):
        extra = {"auxiliary": True} if plan.auxiliary else {}
        check_state(state, plan.build(classes, **extra), plan.auxiliary)
        module = plan.build(classes)
    kept = {key: state.get(key, torch.tensor(0)) for key in module.state_dict()}
    module.load_state_dict(kept, assign=True)
    return module.eval().requires_grad_(False)


def write_network(folder: Path, module: nn.Module, plan: Architecture, mean: Rgb, std: Rgb) -> Manifest:
    """Write weights and forward graph of `module`; returns the manifest, without names and digests as yet."""
    dynamic, size = export.is_dynamic(module), plan.input_size
    exported = export.write(module, folder, mean=mean, std=std, size=None if dynamic else size)
    verify.check_classifier(exported.model, folder, exported.output, size)
    return Manifest(
        name="unpublished",
        version=UNPUBLISHED,
        architecture="",
        input_size=size,
        min_size=layers.min_size(exported.model, size) if dynamic else size,
        dynamic_size=dynamic,
        mean=mean,
        std=std,
        interpolation=plan.interpolation,
        labels=(),
        layers=layers.describe(exported.model, exported.layers, size),
        dream_layers=plan.dream_layers,
        output=exported.output,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        multiply_adds=layers.multiply_adds(exported.model, size),
        files={},
    )
