"""Feature vectors: a layer's value as one vector an image."""

from __future__ import annotations

import numpy as np

from convlens.v1 import inspection_pb2
from convlens_server.backends.base import F32, Backend
from convlens_workers.collections.pooling import pool


def features(backend: Backend, images: F32, options: inspection_pb2.FeatureOptions) -> F32:
    """The layer's value pooled over positions (mean or max) or flattened, (N, D).

    With `normalise` every vector is scaled to Euclidean length 1, so that inner products are cosines; a
    vector of zeros stays as it is.
    """
    value = backend.forward(images, [options.layer])[options.layer]
    vectors = pool(value, options.pooling or inspection_pb2.POOLING_MEAN).values
    if options.normalise:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(lengths > 0, lengths, np.float32(1))
    return vectors
