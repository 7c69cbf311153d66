"""What is looked at, and written down, before the training of a style network is queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens.v1 import style_pb2
from convlens_models.importing import publish
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.collections.files import SHARD

FIELD: Final = "train_style"


def check(params: style_pb2.TrainStyle, repository: ModelRepository, folders: Mapping[str, Path]) -> None:
    """Refuse what the worker would refuse too; blocks.

    Raises:
        InvalidArgument: a name that is unusable or that of a classifier, or a folder that is not allowed.
    """
    publish.check_kind(repository, params.name, "style", f"{FIELD}.name")
    if params.WhichOneof("source") == "folder" and params.folder not in folders:
        allowed = (
            f"one of {', '.join(sorted(folders))}" if folders else "a collection: no folder is allowed here"
        )
        raise InvalidArgument.of(f"{FIELD}.folder", params.folder, allowed)


def gather(files: CollectionFiles, params: style_pb2.TrainStyle, order: Sequence[str]) -> None:
    """Fill in lists of the collection's pictures as they are now; blocks.

    Raises:
        FailedPrecondition: there are none.
    """
    if not order:
        raise FailedPrecondition(f"collection {params.collection!r} has no pictures to learn from")
    params.shards.extend(
        files.put_shard(params.collection, order[start : start + SHARD])
        for start in range(0, len(order), SHARD)
    )
