"""Dataset examples: images of a collection that excite the target of a feature visualisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from convlens.v1 import image_pb2, job_pb2
from convlens_models.manifest import Layer
from convlens_models.measures.receptive_field import receptive_field
from convlens_models.measures.units import channel_map, strongest
from convlens_models.preprocess import to_input
from convlens_workers.techniques.base import Task
from convlens_workers.techniques.parts.objectives import Term
from convlens_workers.techniques.parts.pixels import resize

Place = tuple[int, int]


def dataset_examples(task: Task[job_pb2.FeatureVisualisation], terms: Sequence[Term]) -> Tensor:
    """What the target of each objective sees in its images, (objectives x images, 3, size, size) in [0, 1].

    A channel sees the receptive field of where it is strongest, a neuron its own; moved into the image where
    it reaches beyond. Classes and directions see the whole image.

    Args:
        task: `params.dataset_examples` are the images.
        terms: of the objectives, one each.

    Raises:
        NotFound: an image was deleted meanwhile.
    """
    crops = [
        _seen(task, item.terms[0].target, term.layer, task.collections.image(task.params.collection, digest))
        for item, term, found in zip(task.params.objectives, terms, task.params.dataset_examples, strict=True)
        for digest in found.images
    ]
    return torch.cat(crops)


def _seen(task: Task[Any], target: Any, name: str, file: bytes) -> Tensor:
    image = torch.from_numpy(to_input(image_pb2.Image(encoded=file), task.manifest))[None].to(task.device)
    size, layer = (image.shape[2], image.shape[3]), task.manifest.layer(name)
    kind = target.WhichOneof("target")
    if kind not in PLACES or not layer.stride:
        return image
    place = PLACES[kind](task, getattr(target, kind), layer, image)
    rows, columns = receptive_field(layer, *place, size).moved_into(size).pixels
    return resize(image[:, :, rows, columns], size)


def _strongest(task: Task[Any], target: Any, layer: Layer, image: Tensor) -> Place:
    with torch.no_grad():
        value = task.network.taps(image, [layer.name])[layer.name]
    (hit,) = strongest(channel_map(value.float().cpu().numpy(), layer.name, target.channel))
    return hit.y, hit.x


PLACES: Final[dict[str, Callable[[Task[Any], Any, Layer, Tensor], Place]]] = {
    "channel": _strongest,
    "neuron": lambda _task, target, _layer, _image: (target.y, target.x),
}
"""Row and column, in the layer's map, of the unit that a target is about."""
