"""What quick calls cost, known from the request before any picture is decoded.

The unit is a multiply-add; what a technique makes of passes, its row in `techniques` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from convlens.v1 import attack_pb2, attribution_pb2, unit_pb2
from convlens_models.manifest import Manifest
from convlens_server.quick.robustness import series_length
from convlens_server.request.validation import validate
from convlens_server.techniques import ATTACKS, ATTRIBUTIONS
from convlens_server.techniques.base import BOTH_WAYS

DECODED: Final = 300
"""Multiply-adds that take as long as decoding, scaling and stacking a pixel of a file, about."""
CERTIFICATE: Final = 2
"""Passes that tell what a perturbed image, and its nearest 8-bit picture, are taken for."""

Size = tuple[int, int]
Passes = Mapping[str, float]
"""Forward passes an image, by the field that they follow from; "" stands for those that no field changes."""
PassesOf = Callable[[Any, Manifest, Size], Passes]
"""Gives the passes of a valid request on images of a height and width."""


def once(*_: object) -> Passes:
    """The passes of a request that runs each image through the network once, forward."""
    return {"": 1}


def back(*_: object) -> Passes:
    """One pass forward, and one there and back."""
    return {"": 1 + BOTH_WAYS}


def attribute(request: attribution_pb2.AttributeRequest, _: Manifest, size: Size) -> Passes:
    """Those of each attribution, and of its scores."""
    passes = {"": 1.0, **_attributions(request.attributions, size)}
    if request.HasField("quality"):
        passes["quality.steps"] = len(request.attributions) * 2.0 * (request.quality.steps + 1)
    return passes


def randomisation(
    request: attribution_pb2.CheckRandomisationRequest, manifest: Manifest, size: Size
) -> Passes:
    """Those of each attribution, for the trained network and with each further layer."""
    layers = sum(layer.weight is not None for layer in manifest.layers) or len(manifest.layers)
    times = 1 + min(request.layers or layers, layers)
    passes = _attributions(request.attributions, size)
    return {"": 1} | {field: times * count for field, count in passes.items()}


def attack(request: attack_pb2.AttackRequest, _: Manifest, size: Size) -> Passes:
    """Those of the attack, and what its success is measured by."""
    field, passes = _technique(ATTACKS, request, size)
    return {"": 1 + CERTIFICATE, field: passes}


def robustness(request: attack_pb2.MeasureRobustnessRequest, _: Manifest, size: Size) -> Passes:
    """Those of an attack for each epsilon, and of two measurements."""
    field, passes = _technique(ATTACKS, request, size)
    points = series_length(request)
    return {"": 1, "epsilons": 2 * points, field: points * passes}


def discrepancy_maps(request: unit_pb2.GetDiscrepancyMapsRequest, manifest: Manifest, size: Size) -> Passes:
    """One over the unit's theoretical field for each patch that touches it."""
    layer, patches = manifest.layer(request.layer), validate(request.discrepancy, path="discrepancy")
    sides = [min(layer.receptive_field, side) for side in size]
    count, share = 1.0, 1.0
    for side, whole in zip(sides, size, strict=True):
        count *= (side + patches.patch) / patches.stride
        share *= side / whole
    return {"": 1 + count * share}


def _attributions(requested: Sequence[attribution_pb2.Attribution], size: Size) -> dict[str, float]:
    passes: dict[str, float] = {}
    for position, item in enumerate(requested):
        field, count = _technique(ATTRIBUTIONS, item, size)
        passes[f"attributions[{position}].{field}"] = count
    return passes


def _technique(table: Mapping[str, Any], request: Any, size: Size) -> tuple[str, float]:
    """The field that makes the chosen technique's passes more, and how many they are."""
    name = request.WhichOneof("technique")
    cost = table[name].cost
    return f"{name}.{cost.grows}" if cost.grows else name, float(cost.passes(getattr(request, name), size))


def value_at(request: Any, path: str) -> object:
    """The value of the field at a path such as "attributions[0].rise.masks"."""
    for part in path.split("."):
        name, _, position = part.removesuffix("]").partition("[")
        request = getattr(request, name)
        request = request[int(position)] if position else request
    return request
