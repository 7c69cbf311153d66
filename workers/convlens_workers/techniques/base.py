"""What a long technique is: a generator that yields after every iteration and returns its results.

    def technique(task: Task[Params], state: State | None) -> Generator[Step, None, Results]

The driver that runs it gives it progress, previews, cancel, drain and checkpoints; a technique knows of none
of them. Whatever decides how it goes on, its random generators included, is in the state that comes with each
step: started again with that state, it goes on as if nothing had happened, bit for bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from google.protobuf.message import Message
from numpy.typing import NDArray
from torch import Tensor

from convlens.v1 import image_pb2
from convlens_models.manifest import Manifest
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.jobs.techniques.base import Resources, Submission
from convlens_workers.networks import Networks

Params = TypeVar("Params", bound=Message)
State = dict[str, Tensor]
Results = Mapping[str, Tensor | Message]
"""Artifacts by name; and a report and a descent, messages, by the names of their fields in JobResult."""


class FeatureNetwork(Protocol):
    """A network whose inner values can be had."""

    def taps(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Values of `layers` for images (N, 3, H, W) in [0, 1], within the autograd graph."""

    def redirected(self) -> AbstractContextManager[None]:
        """Within it, gradients of what is to become small get through ReLUs that are closed everywhere."""

    def average_pooled(self, factor: float = 1.0, power: int = 1) -> FeatureNetwork:
        """The same with average pools, with `power` 2 root mean squares, times `factor`, for max pools."""


@dataclass(frozen=True)
class Host:
    """What a worker has beside its device.

    Attributes:
        networks: others than the task's own, and the repository that they are in.
        victims: servers that may be queried, "host:port" or "oip://host:port", by the name that requests use.
        folders: of pictures to learn from, by the name that requests use.
        artifacts: URL of the artifact store, for other processes of a technique.
    """

    networks: Networks = field(
        default_factory=lambda: Networks(ModelRepository(None), torch.device("cpu"), limit=1)
    )
    victims: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    artifacts: str = ""


@dataclass(frozen=True)
class Task(Generic[Params]):
    """What is to be done, and with what.

    Attributes:
        params: the technique's message, validated, defaults filled in.
        network: on `device`, weights frozen.
        manifest: what is known about the network.
        images: pictures of `params` by field name, each (1, 3, H, W) in [0, 1] on `device`.
        seed: of everything random.
        device: where to compute.
        collections: files and features of all collections.
        host: what else the worker has.
    """

    params: Params
    network: FeatureNetwork
    manifest: Manifest
    images: Mapping[str, Tensor]
    seed: int
    device: torch.device
    collections: CollectionFiles
    host: Host = field(default_factory=Host)

    def collection_images(self, digests: Iterable[str]) -> NDArray[np.float32]:
        """Images of `params.collection` as the network gets them, (N, 3, H, W) in [0, 1]. Raises NotFound."""
        collection = self.params.collection  # type: ignore[attr-defined]
        files = (self.collections.image(collection, digest) for digest in digests)
        return np.stack([to_input(image_pb2.Image(encoded=file), self.manifest) for file in files])

    def submission(self, technique: str) -> Submission:
        """The job as the server saw it when it was submitted."""
        sizes = {path: (image.shape[2], image.shape[3]) for path, image in self.images.items()}
        resources = Resources(self.host.networks.repository, self.host.victims, self.host.folders)
        return Submission(technique, self.params, self.manifest, sizes, resources)


@dataclass(frozen=True)
class Step:
    """The end of an iteration.

    Attributes:
        number: iterations done, counted from 1 over the whole job.
        total: iterations in all.
        losses: terms of the objective, scalars; left on the device until somebody wants to know.
        image: the picture as it is, (1, 3, H, W) in [0, 1], for previews.
        state: what is needed to go on from here.
    """

    number: int
    total: int
    losses: Mapping[str, Tensor]
    image: Tensor
    state: State


Technique = Callable[[Task[Any], State | None], Generator[Step, None, Results]]
