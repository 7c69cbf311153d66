"""Dreams of pictures that are cut into tiles."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.dreams import make_task, photo, run, values
from support.tiny_model import NAME
from torch import Tensor

from convlens_models.network import Network
from convlens_models.repository import StoredModel
from convlens_workers.jobs.techniques.sizes import cut
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.tiles import random_roll, tiled_gradient


@pytest.mark.parametrize(
    ("length", "tile"), [(1, 0), (100, 0), (100, 100), (101, 100), (1000, 300), (64, 65)]
)
def test_tiles_cover_all_and_are_as_equal_as_can_be(length: int, tile: int) -> None:
    parts = cut(length, tile)
    assert [i for part in parts for i in range(length)[part]] == list(range(length))
    sides = [part.stop - part.start for part in parts]
    assert max(sides) - min(sides) <= 1
    assert max(sides) <= (tile or length)
    assert len(parts) == (-(-length // tile) if tile else 1)


def test_the_gradient_of_a_cut_picture_is_that_of_its_tiles(network: Network) -> None:
    layers, image = ["features.relu2"], photo(70, 130)

    def norms(part: Tensor) -> dict[str, Tensor]:
        return {name: value.norm() for name, value in network.taps(part, layers).items()}

    gradient_by_tiles, sums = tiled_gradient(image, 66, norms)
    for rows in (slice(0, 35), slice(35, 70)):
        for columns in (slice(0, 65), slice(65, 130)):
            part = image[:, :, rows, columns].clone().requires_grad_()
            values(network, part, layers[0]).norm().backward()
            torch.testing.assert_close(gradient_by_tiles[:, :, rows, columns], part.grad)
    parts = [norms(one)[layers[0]] for half in image.chunk(2, 2) for one in half.chunk(2, 3)]
    assert sums[layers[0]] == pytest.approx(float(sum(parts)), rel=1e-6)


def test_no_more_than_a_tile_is_looked_at_once(network: Network, stored: StoredModel) -> None:
    sizes = []

    class Watched:
        def taps(self, images: Tensor, layers: list[str]) -> dict[str, Tensor]:
            sizes.append(tuple(images.shape[2:]))
            return network.taps(images, layers)

    task = make_task(network, stored, photo(150, 90), tile=64, steps=3, octaves=3)
    run(replace(task, network=Watched()))
    assert max(max(size) for size in sizes) <= 64
    assert min(min(size) for size in sizes) >= 32


def test_cuts_come_to_lie_anywhere_where_there_are_cuts() -> None:
    rng = generator(0)
    rolls = [random_roll((100, 40), 64, 8, rng) for _ in range(2000)]
    assert {down for down, _ in rolls} == set(range(51))
    assert {right for _, right in rolls} == set(range(-8, 9))


def test_a_picture_within_the_tile_is_dreamt_as_without(network: Network, stored: StoredModel) -> None:
    whole, tiled = (run(make_task(network, stored, tile=tile))[1] for tile in (0, 64))
    assert torch.equal(whole, tiled)


def test_tiles_leave_no_seams(network: Network, stored: StoredModel) -> None:
    """Neighbouring pixels differ across the cuts of the picture at rest as much as elsewhere."""
    image = photo(128, 128)
    change = run(make_task(network, stored, image, tile=64, octaves=1, steps=24, step_size=3.0))[1] - image
    steps = change.diff(dim=3).abs().mean((0, 1, 2))
    assert steps[63] < 1.3 * steps.median()


PEAK = """
import resource, sys
from pathlib import Path
import torch
from convlens.v1 import job_pb2
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques.base import Task
from convlens_workers.techniques.deepdream import deepdream

models, name, side, tile = sys.argv[1:]
torch.set_num_threads(1)
stored = ModelRepository(Path(models)).get(name)
params = job_pb2.DeepDream(octaves=1, octave_scale=1.4, steps=1, step_size=1, jitter=8, tile=int(tile))
images = {"image": torch.rand(1, 3, int(side), int(side))}
device, files = torch.device("cpu"), CollectionFiles("memory:///")
for _ in deepdream(Task(params, load_network(stored), stored.manifest, images, 0, device, files)):
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_grows_by_copies_of_the_picture_only(tiny_models: Path) -> None:
    """By no more than eight; the network's values alone would take dozens."""
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", PEAK, str(tiny_models), NAME, str(side), "256"]))
        for side in (512, 2048)
    ]
    assert peaks[1] - peaks[0] < 8 * 4 * 3 * (2048**2 - 512**2)
