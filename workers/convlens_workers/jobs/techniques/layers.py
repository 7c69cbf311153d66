"""Which layers describe style and content, where the caller does not say; for any network with ReLUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from convlens.errors import FailedPrecondition
from convlens_models.manifest import Manifest
from convlens_workers.jobs.techniques.base import Rule, Submission

CLIPPED: Final = "Relu6"
RELUS: Final = ("Relu", CLIPPED)
Default = Callable[[Manifest], list[str]]
"""The layers that a technique takes where none are given."""


def activations(manifest: Manifest) -> list[str]:
    """All activations with positions, from fine to coarse: what a texture is described by best.

    Raises:
        FailedPrecondition: the network has no ReLUs.
    """
    return [name for names in _by_stride(manifest) for name in names]


def style_layers(manifest: Manifest) -> list[str]:
    """The first activation at each resolution: relu{1..5}_1 of a VGG (Gatys et al. 2016); raises so too."""
    return [names[0] for names in _by_stride(manifest)]


def content_layer(manifest: Manifest) -> str:
    """The second activation at the last resolution but one: relu4_2 of a VGG. Raises as `activations`."""
    resolutions = _by_stride(manifest)
    names = resolutions[max(0, len(resolutions) - 2)]
    return names[min(1, len(names) - 1)]


def style_and_content(params: Any, manifest: Manifest) -> list[str]:
    """All layers that describe style and content, those that are taken where none are given among them."""
    content = params.content_layer or content_layer(manifest)
    return [*(list(params.layers) or style_layers(manifest)), content]


def layer_weights(params: Any, manifest: Manifest, default: Default) -> dict[str, float]:
    """The weight of each of the `layers`, all together 1; equal where no `weights` are given."""
    layers = list(params.layers) or default(manifest)
    weights = dict(zip(layers, params.weights or [1.0] * len(layers), strict=True))
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}


def weights_fit(default: Default) -> Rule:
    """There are layers, and one weight for each or none; weights are at least 0, and not all of them 0."""

    def rule(job: Submission) -> None:
        layers, weights = list(job.params.layers) or default(job.manifest), job.params.weights
        if weights and (len(weights) != len(layers) or min(weights) < 0 or not any(weights)):
            shown = [round(weight, 6) for weight in weights]
            raise job.refused("weights", shown, f"{len(layers)} of at least 0, one a layer, not all 0")

    return rule


def layers_have_positions(job: Submission) -> None:
    """Each layer that is named is a map: what is not, as class scores, has no texture and no content."""
    params = job.params
    named = [(f"layers[{position}]", layer) for position, layer in enumerate(params.layers)]
    if content := getattr(params, "content_layer", ""):
        named.append(("content_layer", content))
    for field, layer in named:
        if len(job.manifest.layer(layer).shape) != 3:
            raise job.refused(field, layer, "a layer with positions, before the network's linear head")


def content_is_described(job: Submission) -> None:
    """There is a layer to describe the content by. Raises FailedPrecondition for a network without ReLUs."""
    if not job.params.content_layer:
        content_layer(job.manifest)


def style_warnings(manifest: Manifest) -> list[str]:
    """What pictures suffer from whose style or texture such a network describes, in a sentence, if they do.

    Looked at: EfficientNet-Lite0 beside SqueezeNet, pebbles and a cat in Van Gogh's manner.
    """
    if not any(layer.kind == CLIPPED for layer in manifest.layers):
        return []
    better = "textures and styles come out noisy; a VGG or SqueezeNet serves better"
    return [f"{manifest.name} has ReLUs that are clipped at 6: {better}"]


def _by_stride(manifest: Manifest) -> list[list[str]]:
    """Activations with positions, by resolution from fine to coarse: ReLUs, and blocks in place of theirs."""
    names = [layer.name for layer in manifest.layers]
    relus = [layer.name for layer in manifest.layers if layer.kind in RELUS]
    blocks = tuple(f"{name}." for name in names if any(relu.startswith(f"{name}.") for relu in relus))
    by_stride: dict[int, list[str]] = {}
    for layer in manifest.layers:
        active = layer.kind in RELUS or f"{layer.name}." in blocks
        head = layer.shape[0] == len(manifest.labels)
        if active and layer.stride and not head and not layer.name.startswith(blocks):
            by_stride.setdefault(layer.stride, []).append(layer.name)
    if not by_stride:
        raise FailedPrecondition(f"{manifest.name} has no ReLU layers to describe style by")
    return [by_stride[stride] for stride in sorted(by_stride)]
