"""DeepDream on a picture of noise."""

from __future__ import annotations

import torch
from support import techniques
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_models.network import Network
from convlens_models.repository import StoredModel
from convlens_server.request.validation import validate
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Step, Task


def photo(height: int = 48, width: int = 64) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1


def make_task(
    network: Network,
    stored: StoredModel,
    image: Tensor | None = None,
    guide: Tensor | None = None,
    mask: Tensor | None = None,
    **params: object,
) -> Task:
    defaults = {"octaves": 2, "steps": 4, "jitter": 8, "image": {"encoded": b"as in images"}}
    message = validate(job_pb2.DeepDream(**(defaults | params)))
    given = {"image": photo() if image is None else image, "guide": guide, "mask": mask}
    images = {name: each for name, each in given.items() if each is not None}
    return Task(
        message, network, stored.manifest, images, 0, torch.device("cpu"), CollectionFiles("memory:///")
    )


def run(task: Task) -> tuple[list[Step], Tensor]:
    steps, results = techniques.run(begin("deepdream", task))
    return steps, results["image"]


def values(network: Network, image: Tensor, layer: str) -> Tensor:
    return network.taps(image, [layer])[layer]
