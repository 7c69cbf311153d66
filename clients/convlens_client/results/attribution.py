"""What pixels count, and whether maps depend on what was learned."""

from __future__ import annotations

import dataclasses

from convlens_client.results.array import Array


@dataclasses.dataclass(frozen=True, slots=True)
class Attribution:
    """A target attributed to the pixels of N images.

    `values` and `class_indices` have one entry an image (no class indices for targets that are no classes);
    `map` is float32 of shape (N, 3, H, W) or (N, 1, H, W), in the units that the technique's message states.
    `completeness_residuals` come with integrated gradients; `insertion` (higher is better) and `deletion`
    (lower is better) where they were asked for.
    """

    values: tuple[float, ...]
    class_indices: tuple[int, ...]
    map: Array
    completeness_residuals: tuple[float, ...] = ()
    insertion: tuple[float, ...] = ()
    deletion: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's of two maps, in [-1, 1], and of their absolute values; NaN where one map is constant."""

    signed: float
    absolute: float


@dataclasses.dataclass(frozen=True, slots=True)
class RandomisedLayer:
    """`layer` and all above it are random: each map's correlation with that of the trained network."""

    layer: str
    correlations: tuple[RankCorrelation, ...]
