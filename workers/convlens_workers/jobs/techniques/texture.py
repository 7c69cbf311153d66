"""Texture synthesis before it is queued: a weight for each layer; all steps on the picture that is made."""

from __future__ import annotations

from typing import Any, Final

from convlens_models.manifest import Manifest
from convlens_workers.jobs.techniques.base import Specification, Submission, optimisation_cost
from convlens_workers.jobs.techniques.layers import activations, layers_have_positions, weights_fit


def cost(job: Submission) -> float:
    """All steps at the size that is asked for, by default the sample's."""
    params = job.params
    pixels = (params.height or params.width) * (params.width or params.height)
    return optimisation_cost(job, params.steps, pixels or None)


def reads(params: Any, manifest: Manifest) -> list[str]:
    """Every ReLU, unless layers are named."""
    return list(params.layers) or activations(manifest)


SPECIFICATION: Final = Specification(
    (weights_fit(activations), layers_have_positions), cost, reads=reads, grows=lambda _: ("steps",)
)
