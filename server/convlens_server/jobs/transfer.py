"""The models of a transfer matrix, chosen when the job is submitted."""

from __future__ import annotations

from typing import Final

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2, model_pb2
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository

FIELD: Final = "transfer_matrix.models"
MOST: Final = 16
"""Models beside the request's own, as the field's bounds have it."""


def resolve(
    params: adversarial_pb2.TransferMatrix, own: Manifest, repository: ModelRepository
) -> adversarial_pb2.TransferMatrix:
    """Fill in the models' versions; and where none are named, all models with the classes of `own`; blocks.

    Raises:
        InvalidArgument: a model with other classes, or more models than a matrix may have.
        NotFound: no such model.
    """
    found = [_named(ref, own, repository, i) for i, ref in enumerate(params.models)] or [
        manifest
        for manifest in repository.list()
        if (manifest.task, manifest.labels) == (own.task, own.labels)
        and (manifest.name, manifest.version) != (own.name, own.version)
    ]
    if len(found) > MOST:
        raise InvalidArgument.of(FIELD, f"nothing, which is {len(found)} models", f"at most {MOST}, by name")
    del params.models[:]
    params.models.extend(model_pb2.ModelRef(name=item.name, version=item.version) for item in found)
    return params


def _named(ref: model_pb2.ModelRef, own: Manifest, repository: ModelRepository, place: int) -> Manifest:
    manifest = repository.get(ref.name, ref.version if ref.HasField("version") else None).manifest
    if (manifest.task, manifest.labels) != (own.task, own.labels):
        raise InvalidArgument.of(
            f"{FIELD}[{place}]", manifest.name, f"a model with the classes of {own.name}"
        )
    return manifest
