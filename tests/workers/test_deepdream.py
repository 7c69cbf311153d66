"""DeepDream as a technique, on a small network."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_model import NAME
from torch import Tensor

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_models.network import Network, load_network
from convlens_models.repository import ModelRepository, StoredModel
from convlens_server.validation import validate
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques.base import Step, Task
from convlens_workers.techniques.deepdream import (
    MOST_PIXELS,
    Dream,
    deepdream,
    dream_layers,
    next_octave,
    octaves,
)
from convlens_workers.techniques.parts.animation import zoomed
from convlens_workers.techniques.parts.guide import best_matches
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.pixels import random_shift, roll, unit_mean
from convlens_workers.techniques.parts.pyramid import bands, equalised, merged
from convlens_workers.techniques.parts.tiles import cut, random_roll, tiled_gradient


@pytest.fixture(scope="module")
def stored(tiny_models: Path) -> StoredModel:
    return ModelRepository(tiny_models).get(NAME)


@pytest.fixture(scope="module")
def network(stored: StoredModel) -> Network:
    return load_network(stored)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def photo(height: int = 48, width: int = 64) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1


def make_task(
    network: Network,
    stored: StoredModel,
    image: Tensor | None = None,
    guide: Tensor | None = None,
    **params: object,
) -> Task:
    defaults = {"octaves": 2, "steps": 4, "jitter": 8, "image": {"encoded": b"as in images"}}
    message = validate(job_pb2.DeepDream(**(defaults | params)))
    images = {"image": photo() if image is None else image}
    if guide is not None:
        images["guide"] = guide
    return Task(
        message, network, stored.manifest, images, 0, torch.device("cpu"), CollectionFiles("memory:///")
    )


def run(task: Task) -> tuple[list[Step], Tensor]:
    steps, results = run_all(task)
    return steps, results["image"]


def run_all(task: Task) -> tuple[list[Step], dict[str, Tensor]]:
    steps, technique = [], deepdream(task)
    while True:
        try:
            steps.append(next(technique))
        except StopIteration as end:
            return steps, end.value


def values(network: Network, image: Tensor, layer: str) -> Tensor:
    return network.taps(image, [layer])[layer]


def test_the_layer_is_amplified(network: Network, stored: StoredModel) -> None:
    task = make_task(network, stored, layers=["features.relu4_1"], step_size=8.0)
    steps, image = run(task)
    norms = [network.taps(x, ["features.relu4_1"])["features.relu4_1"].norm() for x in (photo(), image)]
    assert norms[1] > 1.2 * norms[0]
    assert [step.number for step in steps] == list(range(1, 9))
    assert {step.total for step in steps} == {8}
    assert image.shape == photo().shape
    assert image.min() >= 0
    assert image.max() <= 1


def test_the_reported_loss_is_the_norm_of_the_rolled_picture(network: Network, stored: StoredModel) -> None:
    task = make_task(network, stored, layers=["features.relu2", "features.relu4_1"])
    _, losses = Dream(task, dream_layers(task)).direction(photo(), generator(0))
    rolled = roll(photo(), random_shift(8, generator(0)))
    expected = {name: value.norm() for name, value in network.taps(rolled, losses).items()}
    assert losses == expected


def test_one_step_is_that_of_the_formula(network: Network, stored: StoredModel) -> None:
    """Without jitter: x + step / 255 g / mean|g|, g the gradient of the sum of the layers' norms."""
    layers = ["features.relu2", "features.relu4_1"]
    task = make_task(network, stored, layers=layers, octaves=1, steps=1, jitter=0, step_size=3.0)
    x = photo().requires_grad_()
    sum(value.norm() for value in network.taps(x, layers).values()).backward()
    expected = (photo() + 3 / 255 * x.grad / x.grad.abs().mean()).clamp(0, 1)
    torch.testing.assert_close(run(task)[1], expected, rtol=0, atol=1e-6)


def test_jitter_does_not_move_the_picture(network: Network, stored: StoredModel) -> None:
    """A step of no length leaves the pixels where they are."""
    task = make_task(network, stored, layers=["features.relu2"], octaves=1, step_size=1e-30)
    assert torch.equal(run(task)[1], photo())


def test_default_layers_are_the_models(network: Network, stored: StoredModel) -> None:
    steps, _ = run(make_task(network, stored))
    assert tuple(steps[0].losses) == stored.manifest.dream_layers


def test_a_model_without_dream_layers_is_refused(network: Network, stored: StoredModel) -> None:
    task = make_task(network, stored)
    bare = Task(
        task.params,
        network,
        stored.manifest.model_copy(update={"dream_layers": ()}),
        task.images,
        0,
        task.device,
        task.collections,
    )
    with pytest.raises(InvalidArgument, match=r"deepdream\.layers"):
        run(bare)


def test_octaves_too_small_are_left_out(network: Network, stored: StoredModel) -> None:
    task = make_task(network, stored, photo(64, 128), octaves=4, octave_scale=1.4)
    assert octaves(task) == [(33, 65), (46, 91), (64, 128)]
    assert octaves(make_task(network, stored, photo(20, 40), octaves=4)) == [(20, 40)]


def test_the_detail_goes_between_octaves_not_the_picture() -> None:
    start, small = photo(64, 64), photo(32, 32)
    unchanged = torch.nn.functional.interpolate(start, (32, 32), mode="bilinear", antialias=True)
    assert torch.allclose(next_octave(unchanged, start, (64, 64)), start, atol=1e-6)
    assert not torch.allclose(next_octave(small, start, (64, 64)), start, atol=1e-2)


def test_a_zero_gradient_is_no_step() -> None:
    assert torch.equal(unit_mean(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))


def test_gradients_of_any_size_give_the_same_step() -> None:
    gradient = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(unit_mean(gradient * 1e6), unit_mean(gradient))
    assert unit_mean(gradient).abs().mean() == pytest.approx(1)


def test_only_the_channels_named_are_amplified(network: Network, stored: StoredModel) -> None:
    layer = "features.relu3_1"
    task = make_task(network, stored, layers=[layer], channels=[3, 5], octaves=1, jitter=0, steps=1)
    steps, image = run(task)
    before = values(network, photo(), layer)[:, [3, 5]]
    assert steps[0].losses[layer] == before.norm()
    x = photo().double().requires_grad_()
    double = load_network(stored).double()
    values(double, x, layer)[:, [3, 5]].norm().backward()
    expected = (photo() + 1.5 / 255 * x.grad / x.grad.abs().mean()).clamp(0, 1)
    torch.testing.assert_close(image, expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"layers": ["features.relu2", "features.relu3_1"], "channels": [1]}, r"deepdream\.layers"),
        ({"layers": ["features.relu2"], "channels": [0, 9999]}, r"deepdream\.channels\[1\]"),
        ({"layers": ["features.relu2"], "channels": [-1]}, r"deepdream\.channels\[0\]"),
        ({"tile": 8}, r"deepdream\.tile"),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    network: Network, stored: StoredModel, params: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument, match=field):
        run(make_task(network, stored, **params))


def test_a_video_too_large_is_refused(network: Network, stored: StoredModel) -> None:
    side = 512
    image = torch.zeros(1, 3, side, side)
    most = MOST_PIXELS // side**2
    with pytest.raises(InvalidArgument, match=rf"deepdream\.frames.*at most {most} of 512 x 512"):
        run(make_task(network, stored, image, frames=most + 1))


def test_each_position_grows_along_the_feature_of_the_guide_that_it_is_most_like(
    network: Network, stored: StoredModel
) -> None:
    """Against a loop over positions, in float64."""
    layer, guide = "features.relu3_1", photo(40, 40).flip(3)
    double = load_network(stored).double()
    x = photo().double().requires_grad_()
    ours, theirs = values(double, x, layer)[0].flatten(1), values(double, guide.double(), layer)[0].flatten(1)
    wanted = torch.stack([max(theirs.T, key=lambda b, a=a: float(a @ b)) for a in ours.detach().T], dim=1)
    value = (ours * wanted).sum() / wanted.norm()
    value.backward()
    expected = (photo() + 1.5 / 255 * x.grad / x.grad.abs().mean()).clamp(0, 1)
    task = make_task(network, stored, guide=guide, layers=[layer], octaves=1, jitter=0, steps=1)
    steps, image = run(task)
    assert float(steps[0].losses[layer]) == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(image, expected.float(), rtol=0, atol=2e-5)


def test_a_picture_comes_to_be_like_its_guide(network: Network, stored: StoredModel) -> None:
    """Mean cosine of its features with the best ones of a picture of stripes."""
    layer = "features.relu3_1"
    guide = (torch.arange(48) // 4 % 2).float().expand(1, 3, 48, 48)
    dreams = [
        run(make_task(network, stored, guide=one, layers=[layer], step_size=6.0))[1] for one in (None, guide)
    ]
    theirs = values(network, guide, layer)[0].flatten(1)
    alike = []
    for image in (photo(), *dreams):
        ours = values(network, image, layer)[0].flatten(1)
        cosines = torch.cosine_similarity(ours, best_matches(ours, theirs), dim=0)
        alike.append(cosines.mean().item())
    assert alike[2] > max(alike[:2])


def test_matches_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = torch.randn(5, 70), torch.randn(5, 11)
    expected = theirs[:, (ours.T @ theirs).argmax(1)]
    monkeypatch.setattr("convlens_workers.techniques.parts.guide.BLOCK", 100)
    assert torch.equal(best_matches(ours, theirs), expected)


def test_a_large_guide_is_seen_at_the_networks_size(network: Network, stored: StoredModel) -> None:
    sizes = []

    class Watched:
        def taps(self, images: Tensor, layers: list[str]) -> dict[str, Tensor]:
            sizes.append(tuple(images.shape[2:]))
            return network.taps(images, layers)

    task = make_task(network, stored, guide=photo(200, 400), octaves=1, steps=2)
    run(replace(task, network=Watched()))
    side = stored.manifest.input_size
    assert sizes.count((side // 2, side)) == 1


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

    found, sums = tiled_gradient(image, 66, norms)
    for rows in (slice(0, 35), slice(35, 70)):
        for columns in (slice(0, 65), slice(65, 130)):
            part = image[:, :, rows, columns].clone().requires_grad_()
            values(network, part, layers[0]).norm().backward()
            torch.testing.assert_close(found[:, :, rows, columns], part.grad)
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


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_pyramid_is_the_picture_again(count: int) -> None:
    image = torch.randn(1, 3, 37, 50)
    found = bands(image, count)
    assert len(found) == count + 1
    torch.testing.assert_close(merged(found), image)


def test_all_bands_have_one_strength() -> None:
    """A fine pattern 1000 times as strong as a coarse one: both come out of the same order."""
    across = torch.arange(128.0)
    fine, coarse = torch.cos(across * torch.pi), torch.cos(across * torch.pi / 16)
    image = (100 * fine + 0.1 * coarse).expand(1, 3, 128, 128)
    spectrum = torch.fft.rfft(equalised(image, 4)[0, 0, 64]).abs()
    assert spectrum[4] > 0.2 * spectrum[64]
    assert not equalised(torch.zeros(1, 3, 40, 40), 3).any()


def test_laplacian_dreams_are_coarser(network: Network, stored: StoredModel) -> None:
    def coarse(image: Tensor) -> float:
        low = torch.nn.functional.avg_pool2d(image - photo(), 4)
        return float(low.square().mean() / (image - photo()).square().mean())

    plain, smooth = (run(make_task(network, stored, laplacian=count))[1] for count in (0, 3))
    assert coarse(smooth) > 1.5 * coarse(plain)


def test_frames_are_dreams_of_the_enlarged_frame_before(network: Network, stored: StoredModel) -> None:
    """A second frame is the dream of one picture: the first one, enlarged."""
    params = {"layers": ["features.relu4_1"], "jitter": 0, "octaves": 2, "step_size": 4.0}
    task = make_task(network, stored, frames=3, zoom=1.2, frame_rate=8, **params)
    steps, results = run_all(task)
    expected = [run(make_task(network, stored, **params))[1]]
    for _ in range(2):
        expected.append(run(make_task(network, stored, zoomed(expected[-1], 1.2), **params))[1])
    assert list(results) == ["image", "frame.0000", "frame.0001", "frame.0002", "zoom.webp"]
    assert torch.equal(results["image"], expected[-1])
    for number, image in enumerate(expected):
        frame = results[f"frame.{number:04}"]
        assert frame.dtype == torch.float32
        torch.testing.assert_close(frame, image, rtol=0, atol=0.5 / 255 + 1e-6)
    assert [step.number for step in steps] == list(range(1, 25))


def test_the_video_is_an_animated_webp_of_the_frames(network: Network, stored: StoredModel) -> None:
    calm = torch.nn.functional.interpolate(photo(6, 8), (48, 64), mode="bicubic").clamp(0, 1)
    _, results = run_all(make_task(network, stored, calm, frames=3, frame_rate=8, steps=1))
    assert results["zoom.webp"].dtype == torch.uint8
    with Image.open(io.BytesIO(results["zoom.webp"].numpy().tobytes())) as video:
        assert (video.format, video.n_frames, video.info["loop"]) == ("WEBP", 3, 0)
        for number in range(3):
            video.seek(number)
            shown = np.asarray(video.convert("RGB")) / 255
            assert video.info["duration"] == 125
            frame = results[f"frame.{number:04}"][0].permute(1, 2, 0).numpy()
            assert np.abs(shown - frame).mean() < 0.02


def test_zooming_keeps_the_centre_and_enlarges() -> None:
    across = torch.linspace(0, 1, 65).expand(1, 3, 65, 65)
    closer = zoomed(across, 2.0)
    torch.testing.assert_close(closer[..., 32, 32], across[..., 32, 32])
    torch.testing.assert_close(closer[..., 20:45].diff().mean(), across.diff().mean() / 2)
    assert zoomed(across, 1.0) is across


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
