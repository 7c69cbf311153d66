"""What the attacks of an ensemble have in common: their batch, their points, their steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Points = dict[str, Tensor]
"""What an attack holds, image by image (n, ...): at least "found", the points it looked at last,
"wrong", whether the network is wrong about them, and "passes", how often it was asked in this step."""


@dataclass(frozen=True)
class EnsembleBatch:
    """Images (n, 3, H, W) in [0, 1], their classes (n), and their most likely wrong classes (n, rivals)."""

    images: Tensor
    labels: Tensor
    rivals: Tensor

    def __getitem__(self, which: slice | Tensor) -> EnsembleBatch:
        return EnsembleBatch(self.images[which], self.labels[which], self.rivals[which])


class Attack(Protocol):
    """One attack of an ensemble, step by step."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    @property
    def steps(self) -> int:
        """The number of steps after its beginning."""

    def begin(self, batch: EnsembleBatch, rng: torch.Generator) -> Points:
        """The points from which the attack sets out."""

    def advance(self, batch: EnsembleBatch, points: Points, number: int, rng: torch.Generator) -> Points:
        """Step `number`, counted from 1, from the points after the step before; those it changes are new."""
