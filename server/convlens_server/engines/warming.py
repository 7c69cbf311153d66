"""Models made ready before anybody asks for them."""

from __future__ import annotations

import numpy as np

from convlens.v1 import model_pb2
from convlens_models.autodiff import ReluRule
from convlens_models.manifest import PROBABILITIES
from convlens_server.engines.base import Engine
from convlens_server.engines.models import LoadedModels


def reference(name: str) -> model_pb2.ModelRef:
    """What "name" or "name/version" in a setting means."""
    name, _, version = name.partition("/")
    return model_pb2.ModelRef(name=name, version=int(version)) if version else model_pb2.ModelRef(name=name)


def warm(models: LoadedModels, ref: model_pb2.ModelRef) -> Engine:
    """Load a model, and run it once forward and, a classifier, once back; blocks.

    Raises:
        NotFound: no such model.
        FailedPrecondition: the device that is demanded cannot be used.
    """
    engine = models.get(ref)
    manifest = engine.stored.manifest
    image = np.full((1, 3, manifest.input_size, manifest.input_size), 0.5, np.float32)
    if manifest.task != "classification":
        engine.forward(image, [manifest.output])
        return engine
    engine.forward(image, [PROBABILITIES])
    cotangent = np.zeros((1, len(manifest.labels)), np.float32)
    cotangent[:, 0] = 1
    engine.gradient(image, manifest.output, cotangent, ReluRule.GRADIENT)
    return engine
