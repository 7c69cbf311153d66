"""A plane in which similar images lie near each other."""

from __future__ import annotations

from typing import Final

import numpy as np

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_models.measures.seeds import folded
from convlens_server.backends.base import F32
from convlens_server.collections.features import Table

PCA_DIMENSION: Final = 4096
"""The most values of a vector, since memory grows with their square."""
TSNE_IMAGES: Final = 20_000
"""The most images that t-SNE takes."""
TSNE_START: Final = 50
"""Principal components that t-SNE sees, as in its authors' own code: the rest is noise, and memory."""


def pca(table: Table, components: int = 2) -> tuple[F32, F32]:
    """Principal components of the rows, exactly, by the eigenvectors of their covariance.

    Two passes over the table, in float64; a component's sign is such that its largest weight is positive.

    Returns:
        Coordinates (N, components), and the share of the variance that each component explains.

    Raises:
        InvalidArgument: vectors of more than 4096 values.
    """
    count, mean, products = len(table.order), np.zeros(0), np.zeros((0, 0))
    for _, features in table.blocks():
        rows = features.values.astype(np.float64)
        dimension = rows.shape[1]
        if dimension > PCA_DIMENSION:
            allowed = f"a layer and pooling of at most {PCA_DIMENSION} values a vector"
            raise InvalidArgument.of("features", f"{dimension} values of {table.which.layer}", allowed)
        if not mean.size:
            mean, products = np.zeros(dimension), np.zeros((dimension, dimension))
        mean += rows.sum(axis=0) / count
        products += rows.T @ rows / count
    variances, axes = np.linalg.eigh(products - np.outer(mean, mean))
    chosen = axes[:, ::-1][:, :components]
    chosen *= np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    coordinates = np.zeros((count, components), np.float32)
    for positions, features in table.blocks():
        coordinates[positions, : chosen.shape[1]] = (features.values - mean) @ chosen
    shares = np.zeros(components, np.float32)
    shares[: chosen.shape[1]] = np.clip(variances[::-1][:components], 0, None) / (
        np.clip(variances, 0, None).sum() or 1.0
    )
    return coordinates, shares


def tsne(table: Table, perplexity: float, seed: int) -> F32:
    """t-SNE (van der Maaten, Hinton 2008) of the first 50 principal components, by scikit-learn; (N, 2).

    Raises:
        FailedPrecondition: scikit-learn is not installed.
        InvalidArgument: too many images, or a perplexity above a third of their number.
    """
    count = len(table.order)
    if count > TSNE_IMAGES:
        raise InvalidArgument.of("projection", f"t-SNE of {count} images", f"of at most {TSNE_IMAGES}")
    if perplexity > count / 3:
        raise InvalidArgument.of("perplexity", perplexity, f"at most a third of the {count} images")
    try:
        from sklearn.manifold import TSNE  # noqa: PLC0415 (takes seconds)
    except ImportError as error:
        text = "t-SNE needs scikit-learn: pip install 'convlens[maps]'"
        raise FailedPrecondition(text, reason="NOT_INSTALLED") from error
    start, _ = pca(table, TSNE_START)
    return np.asarray(
        TSNE(perplexity=perplexity, random_state=folded(seed), init="pca").fit_transform(start), np.float32
    )


def unit_square(points: F32) -> F32:
    """The points (N, 2) moved and scaled to [0, 1], both axes by the same factor."""
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    side = float(extent.max()) or 1.0
    return np.asarray((points - low + (side - extent) / 2) / side, np.float32)
