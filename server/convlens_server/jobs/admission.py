"""What a job will cost, and which jobs are too big to be queued."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2, job_pb2, style_pb2
from convlens_models.manifest import Manifest

PASSES: Final = 3
"""A step goes through the network and back; the way back is about twice the way there."""

SUBSTITUTE_MODEL: Final = 2232
"""Multiply-adds of the copy that a substitute attack trains, for a pixel."""

MULTIPLIERS: Final = ("searches", "samples", "frames")
"""Fields that say how often all steps are taken, or how many passes each has."""


@dataclass(frozen=True)
class Limits:
    """Of one job: pixels of its pictures together, and multiply-adds."""

    pixels: int
    cost: float

    def admit(self, technique: str, params: Message, pixels: int, manifest: Manifest) -> float:
        """The cost of a job. Raises InvalidArgument when it is beyond a limit."""
        if pixels > self.pixels:
            raise InvalidArgument.of(technique, f"{pixels} pixels", f"at most {self.pixels} pixels together")
        found = cost(params, pixels, manifest)
        if found > self.cost:
            allowed = f"at most {self.cost:.3g}: fewer pixels or steps"
            raise InvalidArgument.of(technique, f"{found:.3g} multiply-adds", allowed)
        return found


def cost(params: Message, pixels: int, manifest: Manifest) -> float:
    """Multiply-adds of a job: pixels x iterations x those of the network for a pixel, forward and backward.

    `params` says how many iterations by the fields that techniques share: `steps`, by what multiplies them
    (`MULTIPLIERS`), and `octaves`, where an octave has 1 / octave_scale^2 of the pixels of the one above. 0
    stands for "not known".
    """
    if isinstance(params, job_pb2.MeasureReceptiveField):
        return _occlusions(params, manifest)
    fields = params.DESCRIPTOR.fields_by_name
    steps: float = math.prod(getattr(params, name) for name in ("steps", *MULTIPLIERS) if name in fields)
    if isinstance(params, adversarial_pb2.Substitute):
        return _lessons(params, pixels, manifest)
    if isinstance(params, job_pb2.StyleTransfer):
        steps = max(params.first_steps, steps)
    a_pixel = manifest.multiply_adds / manifest.input_size**2 + _painter(params)
    return PASSES * a_pixel * _worked_on(params, pixels, manifest) * steps * _octaves(params) * _runs(params)


def _worked_on(params: Message, pixels: int, manifest: Manifest) -> int:
    """Pixels of what is made, where that is not what was sent."""
    if isinstance(params, job_pb2.FeatureVisualisation):
        side = params.size or manifest.input_size
        return len(params.objectives) * params.variants * side**2
    if isinstance(params, job_pb2.Texture) and (params.height or params.width):
        return (params.height or params.width) * (params.width or params.height)
    if isinstance(params, style_pb2.TrainStyle):
        return params.batch * params.size**2
    return pixels


def _runs(params: Message) -> float:
    """How often a technique takes all its steps, where it has several runs of them."""
    match params:
        case adversarial_pb2.DefenceAttack():
            return 2
        case adversarial_pb2.AttackEnsemble():  # A query of Square has no way back.
            return 1 + params.targets + params.queries / (PASSES * params.steps)
        case adversarial_pb2.TransferMatrix():
            return 1 + len(params.models)
    return 1


def _painter(params: Message) -> int:
    """Multiply-adds a pixel of the style network that is trained, if one is: those of its convolutions."""
    return 135 * params.width**2 + 486 * params.width if isinstance(params, style_pb2.TrainStyle) else 0


def _occlusions(params: job_pb2.MeasureReceptiveField, manifest: Manifest) -> float:
    """Forward passes over the unit's theoretical field, one for each patch that touches it, in each image."""
    layer, settings = manifest.layer(params.layer), params.discrepancy
    field = min(layer.receptive_field, manifest.input_size)
    patches = ((field + settings.patch) / settings.stride) ** 2
    return params.k * patches * manifest.multiply_adds * (field / manifest.input_size) ** 2


def _lessons(params: adversarial_pb2.Substitute, pixels: int, manifest: Manifest) -> float:
    """Training of the copy on data that double round by round up to the budget, and the victim's answers.

    It answers about all the data, and about the held-out pictures before and after the attack and with noise.
    """
    size = pixels / (len(params.images) + len(params.held_out))
    data = [min(len(params.images) << number, params.queries) for number in range(params.rounds + 1)]
    taught = PASSES * SUBSTITUTE_MODEL * params.epochs * sum(data)
    answers = data[-1] + 3 * len(params.held_out)
    return size * (taught + answers * manifest.multiply_adds / manifest.input_size**2)


def _octaves(params: Message) -> float:
    """Pixels of all octaves over those of the largest."""
    if "octaves" not in params.DESCRIPTOR.fields_by_name:
        return 1.0
    octaves, scale = params.octaves, params.octave_scale  # type: ignore[attr-defined]
    return float(sum(scale ** (-2 * n) for n in range(octaves)))
