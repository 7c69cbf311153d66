"""Loading models before the first call that needs them."""

from __future__ import annotations

import numpy as np

from convlens.v1 import model_pb2
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.manifest import PROBABILITIES
from convlens_server.backends.base import Backend
from convlens_server.backends.models import LoadedModels


def reference(name: str) -> model_pb2.ModelRef:
    """The model that a setting names as "name" or "name/version"."""
    name, _, version = name.partition("/")
    return model_pb2.ModelRef(name=name, version=int(version)) if version else model_pb2.ModelRef(name=name)


def warm(models: LoadedModels, ref: model_pb2.ModelRef) -> Backend:
    """Load a model, and run it once forward and, a classifier, once back; blocks.

    Raises:
        NotFound: no such model.
        FailedPrecondition: the device that is demanded cannot be used.
    """
    backend = models.get(ref)
    manifest = backend.stored.manifest
    image = np.full((1, 3, manifest.input_size, manifest.input_size), 0.5, np.float32)
    if manifest.task != "classification":
        backend.forward(image, [manifest.output])
        return backend
    backend.forward(image, [PROBABILITIES])
    cotangent = np.zeros((1, len(manifest.labels)), np.float32)
    cotangent[:, 0] = 1
    backend.gradient(image, manifest.output, cotangent, ReluRule.GRADIENT)
    return backend
