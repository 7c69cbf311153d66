"""Style networks trained on a small network: what they learn from, what comes of it, several processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from support import techniques
from support.collections import picture
from support.style import random_style, random_transformer_net, style_state
from support.tiny_model import NAME, add_tiny_model
from torch import Tensor

from convlens import wire
from convlens.errors import FailedPrecondition, InvalidArgument
from convlens.v1 import model_pb2, style_pb2
from convlens_models.importing.importer import add_architecture
from convlens_models.importing.style_import import add_style
from convlens_models.repository import WEIGHTS, ModelRepository
from convlens_models.tensors import load
from convlens_server.request.validation import validate
from convlens_workers.collections import CollectionFiles
from convlens_workers.device_process import decode_images
from convlens_workers.networks import Networks
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Host, Results, State, Step, Task
from convlens_workers.techniques.parts import distributed_training
from convlens_workers.techniques.parts.image_dataset import ImageDataset, folder_dataset
from convlens_workers.techniques.parts.perceptual import Perceptual
from convlens_workers.techniques.parts.style_network import StyleNetwork
from convlens_workers.techniques.train_style import train_style

LAYERS = {"features.relu1": 0.25, "features.relu3_1": 0.75}
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that style networks may be put in."""
    return add_tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures, one of them in a folder below, and two files that are none."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number, 80))
    (folder / "more" / "4.PNG").write_bytes(picture(4, 80))
    (folder / "1broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


def make_task(
    models: Path, pictures: Path, images: dict[str, Tensor] | None = None, **params: object
) -> Task:
    networks = Networks(ModelRepository(models), CPU, limit=1)
    network, manifest = networks.get(model_pb2.ModelRef(name=NAME))
    defaults = {
        "name": "painter",
        "steps": 3,
        "batch": 2,
        "size": 64,
        "width": 4,
        "learning_rate": 0.01,
        "content_weight": 0.1,
        "tv_weight": 0.1,
    }
    source = {} if "collection" in params else {"folder": "ours"}
    message = style_pb2.TrainStyle(**(defaults | source | params))
    host = Host(networks, folders={"ours": pictures, "others": pictures / "more"})
    files = CollectionFiles("memory:///")
    images = images or {"style": stripes()}
    return Task(message, network, manifest, images, 0, CPU, files, host)


def stripes() -> Tensor:
    return torch.linspace(0, 40, 96).sin().expand(1, 3, 80, 96) * 0.4 + 0.5


def run(task: Task, state: State | None = None) -> tuple[list[Step], Results]:
    return techniques.run(begin("train_style", task, state))


def whole(step: Step, content: float = 0.1, tv: float = 0.1) -> float:
    losses = {name: float(value) for name, value in step.losses.items()}
    return losses["style"] + content * losses["content"] + tv * losses["tv"]


def test_it_learns_and_ends_in_the_repository(models: Path, folder: Path) -> None:
    preview = torch.rand(1, 3, 50, 61, generator=torch.Generator().manual_seed(0))
    task = make_task(models, folder, {"style": stripes(), "preview": preview}, steps=40, name="learner")
    steps, results = run(task)
    assert np.mean([whole(step) for step in steps[-5:]]) < 0.5 * whole(steps[0])
    model = results["train_style"].model
    assert (model.name, model.version) == ("learner", 1)
    stored = ModelRepository(models).get("learner")
    assert (stored.manifest.task, stored.manifest.architecture) == ("style", "fast_style")
    vector = steps[-1].state["x"]
    for name, value in StyleNetwork(4).weights(vector).items():
        assert np.array_equal(load(stored.file(WEIGHTS))[name], value.numpy())
    assert results["image"].shape == preview.shape
    assert torch.equal(results["image"], steps[-1].image)
    assert not torch.equal(results["image"], steps[0].image)


def test_finishing_twice_makes_one_version_and_training_again_the_next(models: Path, folder: Path) -> None:
    task = make_task(models, folder, name="twice")
    steps, first = run(task)
    assert run(task, steps[-1].state)[1]["train_style"] == first["train_style"]
    assert run(task)[1]["train_style"] == first["train_style"]
    second = run(make_task(models, folder, name="twice", learning_rate=0.02))[1]
    assert second["train_style"].model.version == 2


@pytest.mark.parametrize("state", [style_state(width=4), random_transformer_net(width=4).state_dict()])
def test_training_goes_on_from_a_version(models: Path, folder: Path, state: State) -> None:
    """Its weights come first, whatever their layout, and the new version names it as its parent."""
    base = add_style(models, state, "base")
    preview = torch.rand(1, 3, 35, 46, generator=torch.Generator().manual_seed(0))
    start = {"name": "base", "version": base.version}
    options = {"name": "further", "steps": 2, "learning_rate": 1e-9, "start_from": start, "width": 0}
    steps, results = run(make_task(models, folder, {"style": stripes(), "preview": preview}, **options))
    stored, origin = (ModelRepository(models).get(name) for name in ("further", "base"))
    assert stored.manifest.parent == f"base/{base.version}"
    assert stored.manifest.architecture == origin.manifest.architecture
    for name, value in origin.weights().items():
        np.testing.assert_allclose(stored.weights()[name], value, atol=1e-6)
    if "conv1.conv2d.weight" in state:
        expected = random_transformer_net(width=4).painted(preview)
    else:
        with torch.no_grad():
            expected = random_style(width=4)(preview * 2 - 1)[..., :35, :46]
    torch.testing.assert_close(results["image"], expected, atol=1e-4, rtol=0)
    further, _ = run(make_task(models, folder, **{**options, "steps": 10, "learning_rate": 0.003}))
    assert np.mean([whole(step) for step in further[-3:]]) < whole(steps[0])


def test_losses_are_those_of_a_worked_example(models: Path, folder: Path) -> None:
    """The losses, worked out in float64 with NumPy from the network's features."""
    network = make_task(models, folder).network
    rng = torch.Generator().manual_seed(0)
    styled, before, style = (torch.rand(n, 3, 48, 40, generator=rng) for n in (2, 2, 1))
    weights = {"style": 1.0, "content": 0.3, "tv": 0.7}
    losses = Perceptual(network, style, layers=LAYERS, content_layer="features.relu4_1", weights=weights)
    total, terms = losses(styled, before)

    def features(images: Tensor, layer: str) -> np.ndarray:
        return network.taps(images, [layer])[layer].flatten(2).numpy().astype(np.float64)

    def grams(images: Tensor, layer: str) -> np.ndarray:
        flat = features(images, layer)
        return flat @ flat.transpose(0, 2, 1) / flat.shape[2]

    expected = 0.0
    for layer, weight in LAYERS.items():
        wanted = grams(style, layer)
        errors = ((grams(styled, layer) - wanted) ** 2).sum((1, 2)) / (wanted**2).sum()
        expected += weight * errors.mean()
    after, was = (features(images, "features.relu4_1") for images in (styled, before))
    content = (((after - was) ** 2).mean((1, 2)) / (was**2).mean((1, 2))).mean()
    pixels = styled.numpy().astype(np.float64)
    tv = sum((np.diff(pixels, axis=axis) ** 2).sum() for axis in (2, 3)) / pixels.size
    assert float(terms["style"]) == pytest.approx(expected, rel=1e-4)
    assert float(terms["content"]) == pytest.approx(content, rel=1e-4)
    assert float(terms["tv"]) == pytest.approx(tv, rel=1e-4)
    assert float(total) == pytest.approx(expected + 0.3 * content + 0.7 * tv, rel=1e-4)


def test_every_picture_is_seen_once_before_any_is_seen_again(
    models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    crop = ImageDataset.crop

    def watched(dataset: ImageDataset, number: int, *arguments: object) -> Tensor:
        seen.append(number)
        return crop(dataset, number, *arguments)

    monkeypatch.setattr(ImageDataset, "crop", watched)
    run(make_task(models, folder, steps=9))
    assert [sorted(seen[start : start + 6]) for start in (0, 6, 12)] == [list(range(6))] * 3
    assert len({tuple(seen[start : start + 6]) for start in (0, 6, 12)}) > 1


def test_what_cannot_be_read_is_told_of_once_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = folder_dataset(folder, "ours")
    assert len(dataset) == 6
    crops = [dataset.crop(number, 64, (0, 0, 0)) for _ in range(2) for number in range(6)]
    assert all(crop.shape == (3, 64, 64) for crop in crops)
    assert [message.partition(" ")[0] for message in caplog.messages] == ["1broken.jpg"]


def test_crops_lie_within_the_picture(folder: Path) -> None:
    dataset = folder_dataset(folder, "ours")
    pixels = torch.from_numpy(wire.decode_image(picture(0, 80)).transpose(2, 0, 1) / np.float32(255))
    full = dataset.crop(0, 64, (0.999, 0, 0))
    assert float((full.mean((1, 2)) - pixels.mean((1, 2))).abs().max()) < 0.01
    corner = dataset.crop(0, 64, (0, 0.999, 0.999))
    torch.testing.assert_close(corner, pixels[:, 16:, 16:])
    assert dataset.crop(0, 128, (0, 0, 0)).shape == (3, 128, 128)
    assert dataset.picture(0, 40).shape == (3, 40, 40)


def test_a_folder_without_pictures_is_a_failed_precondition(
    models: Path, folder: Path, tmp_path: Path
) -> None:
    task = make_task(models, tmp_path)
    with pytest.raises(FailedPrecondition, match="'ours' has no pictures"):
        run(task)
    (tmp_path / "broken.jpg").write_bytes(b"")
    with pytest.raises(FailedPrecondition, match="no picture that can be read, of 1"):
        run(task)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"folder": "theirs"}, r"train_style\.folder = 'theirs': .*others, ours"),
        ({"name": NAME}, rf"train_style\.name = '{NAME}': .*network for classification"),
        ({"name": "../up"}, r"train_style\.name"),
        ({"layers": ["features.relu1"], "weights": [1, 2]}, r"train_style\.weights"),
    ],
)
def test_what_does_not_fit_is_refused(
    models: Path, folder: Path, params: dict[str, object], text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        run(make_task(models, folder, **params))


def test_the_embedded_repository_alone_takes_nothing(models: Path, folder: Path) -> None:
    task = make_task(models, folder)
    task.host.networks.repository.root = None
    with pytest.raises(FailedPrecondition, match="no model repository"):
        run(task)


@pytest.mark.slow
def test_real_photos_in_a_real_style(tmp_path: Path, data: Path) -> None:
    """SqueezeNet 1.0 compares the pictures: the loss on crops that were not seen before falls."""
    source = data / "models"
    add_architecture(tmp_path, "squeezenet1_0", source / "squeezenet1_0.safetensors")
    networks = Networks(ModelRepository(tmp_path), CPU, limit=1)
    network, manifest = networks.get(model_pb2.ModelRef(name="squeezenet1_0"))
    style = {
        "encoded": (data / "styles" / "starry_night.jpg").read_bytes(),
        "resize": {"fit": {"max_side": 256}},
    }
    params = style_pb2.TrainStyle(
        name="starry", folder="photos", style=style, steps=50, batch=2, size=96, width=8, learning_rate=0.002
    )
    params = validate(params, manifest)
    host = Host(networks, folders={"photos": data / "photos"})
    images = decode_images(params, manifest, CPU)
    task = Task(params, network, manifest, images, 0, CPU, CollectionFiles("memory:///"), host)
    steps, _ = run(task)
    totals = [whole(step, params.content_weight, params.tv_weight) for step in steps]
    assert np.mean(totals[-5:]) < 0.85 * totals[0], totals
    assert float(steps[-1].image.std()) > 0.02


def test_two_processes_share_a_batch(models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torchrun and gloo: what one process finds with the whole batch, and every step's state with it."""
    task = make_task(models, folder, steps=3, batch=4, name="alone")
    alone, _ = run(task)
    monkeypatch.setattr(distributed_training, "processes", lambda *_: 2)
    together, results = run(make_task(models, folder, steps=3, batch=4, name="together"), alone[0].state)
    assert [step.number for step in together] == [2, 3]
    for one, two in zip(alone[1:], together, strict=True):
        for name, value in one.losses.items():
            torch.testing.assert_close(two.losses[name], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(two.state["order"], one.state["order"])
        wanted = one.state["optimiser.exp_avg"]  # Gradients: Adam makes small differences of theirs large.
        assert float((two.state["optimiser.exp_avg"] - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())
    assert results["train_style"].model.name == "together"


@pytest.mark.slow
def test_a_stop_ends_the_other_processes(models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed_training, "processes", lambda *_: 2)
    technique = train_style(make_task(models, folder, steps=10_000))
    assert next(technique).number == 1
    children = psutil.Process().children()
    (torchrun,) = (child for child in children if "torch.distributed.run" in child.cmdline())
    ranks = torchrun.children()
    assert len(ranks) == 2
    technique.close()
    _, alive = psutil.wait_procs([torchrun, *ranks], timeout=20)
    assert not alive


@pytest.mark.slow
def test_errors_of_other_processes_are_this_ones(
    models: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    task = make_task(models, tmp_path, {"style": stripes(), "preview": stripes()})
    monkeypatch.setattr(distributed_training, "processes", lambda *_: 2)
    with pytest.raises(FailedPrecondition, match="no picture that can be read, of 1"):
        run(task)


@pytest.mark.parametrize(
    ("batch", "devices", "expected"), [(4, 1, 1), (4, 3, 2), (6, 4, 3), (5, 4, 1), (8, 8, 8)]
)
def test_processes_have_equal_shares(
    batch: int, devices: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert distributed_training.processes(batch, torch.device("cuda:0")) == expected
    assert (
        distributed_training.processes(batch, torch.device("cuda:1"))
        == distributed_training.processes(batch, CPU)
        == 1
    )
