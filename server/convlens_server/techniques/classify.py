"""The classes that a network sees: the softmax of its logits, or independent classes by their sigmoids."""

from __future__ import annotations

import numpy as np

from convlens.v1 import inspection_pb2
from convlens_models.manifest import PROBABILITIES
from convlens_models.measures.certificate import prediction
from convlens_server.backends.base import F32, Backend


def classify(backend: Backend, images: F32, top_k: int) -> list[inspection_pb2.Classification]:
    """The `top_k` most probable classes of each image, best first, equals in index order; all, if fewer."""
    labels = backend.stored.manifest.labels
    probabilities = backend.forward(images, [PROBABILITIES])[PROBABILITIES]
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        inspection_pb2.Classification(predictions=[prediction(row, labels, int(i)) for i in indices])
        for row, indices in zip(probabilities, best, strict=True)
    ]
