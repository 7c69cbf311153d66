"""What the quick attacks return: adversarial images, certificates and robustness curves."""

from __future__ import annotations

import dataclasses

from convlens_client.results.array import Array
from convlens_client.results.model import Prediction


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """What an attack did to one image, measured; fields as in `convlens.v1.Certificate`."""

    linf: float
    l2: float
    before: Prediction
    after: Prediction
    after_encoding: Prediction
    success: bool
    success_after_encoding: bool
    queries: int
    linf_after_encoding: float
    met_before: bool


@dataclasses.dataclass(frozen=True, slots=True)
class AttackOutcome:
    """N attacked images: float32 arrays of shape (N, 3, H, W), pixels in [0, 1], signs in {-1, 0, 1}."""

    certificates: tuple[Certificate, ...]
    original: Array
    gradient_sign: Array
    adversarial: Array


@dataclasses.dataclass(frozen=True, slots=True)
class RobustnessPoint:
    """Accuracy under an attack at one epsilon; fields as in `convlens.v1.RobustnessPoint`."""

    epsilon: float
    accuracy: float
    noise_accuracy: float
    zero_gradient_share: float


@dataclasses.dataclass(frozen=True, slots=True)
class RobustnessAlarms:
    """Signs that the gradient is masked; fields as in `convlens.v1.RobustnessAlarms`."""

    zero_gradients: bool
    noise_beats_attack: bool
    survives_full_range: bool
    not_monotone: bool
    saturated_gradients: bool

    @property
    def raised(self) -> tuple[str, ...]:
        """The names of the alarms that are true."""
        return tuple(field.name for field in dataclasses.fields(self) if getattr(self, field.name))


@dataclasses.dataclass(frozen=True, slots=True)
class Robustness:
    """A robust-accuracy curve, and what speaks against believing it."""

    points: tuple[RobustnessPoint, ...]
    alarms: RobustnessAlarms
