"""The receptive field of a unit as it is in practice, over the images of a collection that excite it most."""

from __future__ import annotations

from collections.abc import Generator
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_models.measures.discrepancy import Forward, Patches, Probe, average, empirical_size, probe
from convlens_models.measures.receptive_field import theoretical_size
from convlens_models.measures.units import F32, Hit, channel_map, strongest
from convlens_workers.techniques.base import Results, State, Step, Task

Params = job_pb2.MeasureReceptiveField

DIM = 0.2
"""Brightness of the preview where the unit does not look."""


def measure_receptive_field(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Discrepancy maps (Zhou et al. 2015, arXiv:1412.6856) of images, recentred on the unit and averaged.

    A step is one pass of the network, with some occlusions of one image; the state holds the changes that
    were measured so far. `measures/discrepancy.py` has the formulas; the quick call computes the same for
    images that it is sent.

    Returns:
        "field" (S, S), "maps" (K, H, W), "images" (K, 3, H, W); "values" (K) and "positions" (K, 2) of the
        unit in each image; "sizes" (2), the theoretical and the empirical one in pixels.

    Raises:
        NotFound: an image was deleted meanwhile.
    """
    images = task.collection_images(task.params.images)
    hits, probes = _probes(task, images)
    work = [(number, portion) for number, item in enumerate(probes) for portion in item.passes()]
    ends = list(accumulate(len(item.places) for item in probes))
    changes = np.zeros(ends[-1], np.float32)
    done = 0
    if state is not None:
        done, changes = int(state["step"]), state["changes"].cpu().numpy().copy()
    by_image = np.split(changes, ends[:-1])  # Views: what is written to them is in `changes`.
    for step, (number, portion) in enumerate(work[done:], start=done + 1):
        by_image[number][portion] = probes[number].changes(_forward(task), portion)
        state = {"step": torch.tensor(step), "changes": torch.from_numpy(changes.copy())}
        change = {"change": torch.tensor(by_image[number][portion].mean())}
        yield Step(step, len(work), change, _lit(probes[number], by_image[number]), state)
    maps = [item.discrepancy_map(changed) for item, changed in zip(probes, by_image, strict=True)]
    return _results(task, hits, images, maps, average(probes, maps))


def _forward(task: Task[Params]) -> Forward:
    """What gives the map of the channel, by the network on its device."""
    layer = task.params.layer

    def forward(batch: F32) -> F32:
        with torch.no_grad():
            value = task.network.taps(torch.from_numpy(batch).to(task.device), [layer])[layer]
        return channel_map(value.float().cpu().numpy(), layer, task.params.channel)

    return forward


def _probes(task: Task[Params], images: F32) -> tuple[list[Hit], list[Probe]]:
    """Where the unit is strongest in each image, and the occlusions for it; the job's seed is added."""
    settings = task.params.discrepancy
    patches = Patches(settings.patch, settings.stride, settings.seed + task.seed)
    hits = [strongest(_forward(task)(image[None]))[0] for image in images]
    layer = task.manifest.layer(task.params.layer)
    return hits, [
        probe(_forward(task), image, hit, number=number, manifest=task.manifest, layer=layer, patches=patches)
        for number, (image, hit) in enumerate(zip(images, hits, strict=True))
    ]


def _lit(item: Probe, changes: F32) -> Tensor:
    """The image, dark but where the unit was found to look, (1, 3, H, W)."""
    map_ = item.discrepancy_map(changes)
    lit = item.image * (DIM + (1 - DIM) * map_ / (map_.max() or 1))
    return torch.from_numpy(lit)[None]


def _results(
    task: Task[Params], hits: list[Hit], images: F32, maps: list[F32], field: F32
) -> dict[str, Tensor]:
    theoretical = theoretical_size(task.manifest.layer(task.params.layer), (images.shape[2], images.shape[3]))
    empirical = empirical_size(field, task.params.discrepancy.threshold)
    tensors = {
        "field": field,
        "maps": np.stack(maps),
        "images": images,
        "values": np.array([hit.value for hit in hits], np.float32),
        "positions": np.array([(hit.y, hit.x) for hit in hits], np.int64),
        "sizes": np.array([theoretical, empirical], np.float32),
    }
    return {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
