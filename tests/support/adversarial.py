"""Tasks of attacks on the embedded model and on SqueezeNet 1.0, on pictures that they have right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from google.protobuf.message import Message
from safetensors.torch import load_file
from torch import Tensor

from convlens.v1 import image_pb2
from convlens_models.architectures import ARCHITECTURES
from convlens_models.manifest import Manifest
from convlens_models.network import Network, load_network
from convlens_models.patterns.draw import LABELS, draw
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques.base import Host, Task
from convlens_workers.techniques.parts.attacks import classifier, predicted

Found = tuple[Network, Manifest, list[Tensor], list[int]]


@cache
def drawings(count: int) -> Found:
    """The embedded model, and so many held-out drawings of different classes that it has right."""
    stored = ModelRepository().get()
    network = load_network(stored)
    images = torch.cat([torch.from_numpy(draw(label, 1, (1, 7))) for label in LABELS[: 2 * count]])
    return (network, stored.manifest, *right(network, list(images.split(1)), range(len(images)), count))


@cache
def photos(data: Path, count: int) -> Found:
    """SqueezeNet 1.0, and so many photographs that it has right."""
    manifest = (
        ModelRepository()
        .get()
        .manifest.model_copy(
            update={
                "name": "squeezenet1_0",
                "labels": [str(i) for i in range(1000)],
                "input_size": 224,
                "mean": (0.485, 0.456, 0.406),
                "std": (0.229, 0.224, 0.225),
                "min_size": 21,
            }
        )
    )
    module = ARCHITECTURES["squeezenet1_0"].build(1000)
    module.load_state_dict(load_file(data / "models" / "squeezenet1_0.safetensors"))
    network = Network(module, manifest.mean, manifest.std)
    paths = sorted((data / "photos").iterdir())[::20]
    images = [
        torch.from_numpy(to_input(image_pb2.Image(encoded=path.read_bytes()), manifest))[None]
        for path in paths
    ]
    return (network, manifest, *right(network, images, [int(path.name[:4]) for path in paths], count))


def right(
    network: Network, images: Sequence[Tensor], labels: Sequence[int], count: int
) -> tuple[list[Tensor], list[int]]:
    """The first `count` that the network classifies as their label."""
    classify = classifier(network)
    pairs = [
        (image, label)
        for image, label in zip(images, labels, strict=True)
        if int(predicted(classify, image)) == label
    ][:count]
    assert len(pairs) == count
    return [image for image, _ in pairs], [label for _, label in pairs]


def make_task(
    network: Network,
    manifest: Manifest,
    images: list[Tensor],
    labels: list[int],
    params: Callable[[list[int], list[image_pb2.Image]], Message],
    host: Host | None = None,
) -> Task:
    """A task on these images; `params` makes the message from labels and empty pictures."""
    message = params(labels, [image_pb2.Image()] * len(images))
    named = {f"images[{place}]": image for place, image in enumerate(images)}
    files, cpu = CollectionFiles("memory:///"), torch.device("cpu")
    return Task(message, network, manifest, named, 0, cpu, files, host or Host())
