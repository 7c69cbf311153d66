"""Maps of a collection: PCA against numpy's singular values, t-SNE against its seed."""

from __future__ import annotations

import numpy as np
import pytest
from support.collection_service import COUNT, PHOTOS, features
from support.replies import tensors_of

from convlens.v1 import collection_pb2 as pb


def test_pca_is_that_of_the_singular_values(place, vectors) -> None:
    request = pb.MapCollectionRequest(id=PHOTOS, features=features())
    _, tensors = tensors_of(place.collections.MapCollection(request))
    centred = vectors["mean"].astype(np.float64) - vectors["mean"].mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    points = left[:, :2] * singular[:2]
    shares = singular**2 / (singular**2).sum()
    np.testing.assert_allclose(tensors["explained_variance"], shares[:2], rtol=1e-3)
    found = tensors["map"]
    assert found.shape == (COUNT, 2)
    assert found.min() >= 0
    assert found.max() == pytest.approx(1)
    for axis in range(2):
        assert abs(np.corrcoef(found[:, axis], points[:, axis])[0, 1]) > 0.9999
    assert np.ptp(found[:, 1]) / np.ptp(found[:, 0]) == pytest.approx(
        np.ptp(points[:, 1]) / np.ptp(points[:, 0]), rel=1e-2
    ) or np.ptp(points[:, 1]) > np.ptp(points[:, 0])


def test_tsne_follows_its_seed(place) -> None:
    request = pb.MapCollectionRequest(
        id=PHOTOS, features=features(), projection=pb.PROJECTION_TSNE, perplexity=5
    )
    first, second = (tensors_of(place.collections.MapCollection(request))[1]["map"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (COUNT, 2)
    assert np.isfinite(first).all()
    request.seed = 1 << 52
    assert np.isfinite(tensors_of(place.collections.MapCollection(request))[1]["map"]).all()
