"""Models made ready before anybody asks for them."""

from __future__ import annotations

import numpy as np

from convlens.v1 import model_pb2
from convlens_models.autodiff import ReluRule
from convlens_models.manifest import PROBABILITIES
from convlens_server.engines.models import LoadedModels


def warm(models: LoadedModels, name: str) -> None:
    """Load a model, "name" or "name/version", and run it once forward and, a classifier, once back; blocks.

    Raises:
        NotFound: no such model.
        FailedPrecondition: the device that is demanded cannot be used.
    """
    name, _, version = name.partition("/")
    ref = model_pb2.ModelRef(name=name, version=int(version)) if version else model_pb2.ModelRef(name=name)
    engine = models.get(ref)
    manifest = engine.stored.manifest
    image = np.full((1, 3, manifest.input_size, manifest.input_size), 0.5, np.float32)
    if manifest.task != "classification":
        engine.forward(image, [manifest.output])
        return
    engine.forward(image, [PROBABILITIES])
    cotangent = np.zeros((1, len(manifest.labels)), np.float32)
    cotangent[:, 0] = 1
    engine.gradient(image, manifest.output, cotangent, ReluRule.GRADIENT)
