"""What pixels count, and whether maps depend on what was learned."""

from __future__ import annotations

import dataclasses

from convlens_client.results.array import Array


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    """How insertion and deletion scores are taken: names as in `convlens.v1.Quality`, "PUBLISHED", "MEAN"."""

    steps: int
    insertion_start: str
    deletion_end: str


@dataclasses.dataclass(frozen=True, slots=True)
class Attribution:
    """A target attributed to the pixels of N images.

    `values` and `class_indices` have one entry an image (no class indices for targets that are no classes);
    `map` is float32 of shape (N, 3, H, W) or (N, 1, H, W), in the units that the technique's message states.
    `completeness_residuals` come with integrated gradients; `insertion` (higher is better) and `deletion`
    (lower is better) where they were asked for, and then `quality` says how they were taken.
    """

    values: tuple[float, ...]
    class_indices: tuple[int, ...]
    map: Array
    completeness_residuals: tuple[float, ...] = ()
    insertion: tuple[float, ...] = ()
    deletion: tuple[float, ...] = ()
    quality: Quality | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's of two maps, in [-1, 1], and of their absolute values; NaN where one map is constant.

    That is the one of the random layers where `blank`, and that of the trained network where `trained_blank`.
    """

    signed: float
    absolute: float
    blank: bool
    trained_blank: bool


@dataclasses.dataclass(frozen=True, slots=True)
class RandomisedLayer:
    """`layer` and all above it are random: each map's correlation with that of the trained network."""

    layer: str
    correlations: tuple[RankCorrelation, ...]
