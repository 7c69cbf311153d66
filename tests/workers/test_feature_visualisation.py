"""Feature visualisation on a small network, and its parts against formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support import techniques
from support.repository import add_copy
from support.tiny_model import NAME, add_tiny_model
from torch import Tensor, nn

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_models.network import Network, load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.networks import Networks
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Host, Step, Task
from convlens_workers.techniques.parts import objectives
from convlens_workers.techniques.parts.camera import GREY
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.losses import likeness
from convlens_workers.techniques.parts.parametrisation import (
    COLOURS,
    EDGE,
    along_colours,
    fourier_picture,
    spectrum_of,
)
from convlens_workers.techniques.parts.pixels import covering, resize
from convlens_workers.techniques.parts.transforms import Ranges, drawn, scaled_and_turned

LAYER = "features.relu3_1"
FOURIER, PIXELS = job_pb2.PARAMETRISATION_FOURIER, job_pb2.PARAMETRISATION_PIXELS
STILL = {"jitter": 0, "scale": 0, "rotate": 0}


def objective(**targets: dict[str, object]) -> job_pb2.Objective:
    return job_pb2.Objective(
        terms=[{"target": {name: value}, "weight": 1} for name, value in targets.items()]
    )


def make_task(
    models: Path, *wanted: job_pb2.Objective, images: dict[str, Tensor] | None = None, **params: object
) -> Task:
    repository = ModelRepository(models)
    stored, device = repository.get(NAME), torch.device("cpu")
    defaults = {"variants": 1, "size": 48, "steps": 24, "diversity": 1, "decay": 1e-4, "blur_every": 4}
    message = job_pb2.FeatureVisualisation(objectives=wanted, **(defaults | params))
    files, host = CollectionFiles("memory:///"), Host(Networks(repository, device, limit=2))
    return Task(message, load_network(stored), stored.manifest, images or {}, 0, device, files, host)


def run(task: Task) -> tuple[list[Step], dict[str, Tensor]]:
    return techniques.run(begin("feature_visualisation", task))


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


@pytest.mark.parametrize("kind", [FOURIER, PIXELS])
def test_each_objective_is_far_above_its_value_on_photographs_of_noise(tiny_models: Path, kind: int) -> None:
    wanted = objective(channel={"layer": LAYER, "channel": 3}), objective(class_score={"index": 2})
    task = make_task(tiny_models, *wanted, parametrisation=kind, steps=40)
    _, results = run(task)
    pictures = fourier_picture(torch.randn(32, 3, 48, 25, 2, generator=generator(1)) * 0.01, 48)
    for number, value in enumerate(results["values"]):
        usual, _ = objectives.measured(objectives.terms(task, number), pictures)
        assert value > usual.mean() + 3 * usual.std()
    assert results["images"].std() > 0.01


def test_pixels_go_along_the_gradient_of_decorrelated_colours() -> None:
    """x = C z: where x goes if z takes a step along its gradient, C written down from lucid's table."""
    colours = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float64)
    colours = colours / colours.norm(dim=0).max()
    z = torch.rand(1, 3, 4, 5, dtype=torch.float64, generator=generator(0)).requires_grad_()
    x = torch.einsum("rc,nchw->nrhw", colours, z)
    wanted, pixels = torch.autograd.grad((x**3).sum(), (z, x))
    moved = torch.einsum("rc,nchw->nrhw", colours, wanted)
    torch.testing.assert_close(along_colours(pixels), moved, rtol=1e-6, atol=0)
    grey, magenta = torch.ones(1, 3, 1, 1), torch.tensor([1.0, -2.0, 1.0]).view(1, 3, 1, 1)
    lengths = [float(along_colours(one).norm() / one.norm()) for one in (grey, magenta)]
    assert lengths[1] < 0.1 * lengths[0]


def test_targets_read_what_they_say(tiny_models: Path) -> None:
    vector = np.linspace(-1, 1, 64, dtype=np.float32)
    task, images = make_task(tiny_models), noise(0, 2, 3, 48, 48)
    value, logits = task.network.taps(images, [LAYER, "classifier"]).values()
    expected = {
        "class_score": ({"index": 2}, logits[:, 2]),
        "log_probability": ({"index": 2}, logits.log_softmax(1)[:, 2]),
        "channel": ({"layer": LAYER, "channel": 5}, value[:, 5].mean((1, 2))),
        "neuron": ({"layer": LAYER, "channel": 5, "y": 2, "x": 3}, value[:, 5, 2, 3]),
        "direction": (
            {"layer": LAYER, "vector": wire.to_tensor(vector)},
            (value * torch.from_numpy(vector).view(1, -1, 1, 1)).sum(1).mean((1, 2)),
        ),
    }
    for name, (target, wanted) in expected.items():
        asked = make_task(tiny_models, objective(**{name: target}))
        torch.testing.assert_close(objectives.measured(objectives.terms(asked, 0), images)[0], wanted)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({"class_score": {}}, "class_score.index"),
        ({"channel": {"layer": LAYER, "channel": 64}}, "channel.channel"),
        ({"neuron": {"layer": LAYER, "channel": 1, "y": 99}}, "neuron.y"),
        ({"neuron": {"layer": "nothing"}}, "neuron.layer"),
        ({"direction": {"layer": LAYER, "vector": wire.to_tensor(np.ones(3, np.float32))}}, "vector"),
        ({"direction": {"layer": LAYER, "vector": wire.to_tensor(np.zeros(64, np.float32))}}, "vector"),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    tiny_models: Path, target: dict[str, dict[str, object]], field: str
) -> None:
    with pytest.raises(InvalidArgument, match=rf"objectives\[0\]\.terms\[0\]\.target.*{field}"):
        run(make_task(tiny_models, objective(**target)))


def test_variants_differ_more_with_diversity(tiny_models: Path) -> None:
    def alike(diversity: float) -> float:
        wanted = objective(channel={"layer": LAYER, "channel": 3})
        task = make_task(tiny_models, wanted, variants=3, diversity=diversity)
        images = run(task)[1]["images"]
        return float(likeness(task.network.taps(images, [LAYER])[LAYER]))

    assert alike(10) < alike(0)


def test_fourier_pictures_are_lucids(tiny_models: Path) -> None:
    """Against the formula in float64 by NumPy."""
    spectrum = torch.randn(1, 3, 6, 5, 2, generator=generator(0))
    frequency = np.hypot(np.fft.fftfreq(6)[:, None], np.fft.rfftfreq(8))
    values = spectrum[0].double().numpy()
    scaled = (values[..., 0] + 1j * values[..., 1]) / np.maximum(frequency, 1 / 8)
    plane = np.fft.irfft2(scaled, s=(6, 8), norm="ortho") / 4
    colours = np.asarray(COLOURS) / np.linalg.norm(COLOURS, axis=0).max()
    expected = 1 / (1 + np.exp(-np.einsum("rc,chw->rhw", colours, plane)))
    np.testing.assert_allclose(fourier_picture(spectrum, 8)[0], expected, atol=1e-6)


def test_a_silent_unit_gets_a_gradient_only_when_redirected() -> None:
    """Behind a ReLU that is closed everywhere the usual gradient is 0."""
    convolution = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        convolution.weight.fill_(1)
        convolution.bias.fill_(-9)
    network = Network(nn.Sequential(convolution, nn.ReLU()), (0.0,) * 3, (1.0,) * 3)
    image = torch.rand(1, 3, 4, 4, generator=generator(0)).requires_grad_()

    def gradient() -> Tensor:
        (change,) = torch.autograd.grad(-network.taps(image, ["1"])["1"].sum(), image)
        return change

    assert not gradient().any()
    with network.redirected():
        assert (gradient() < 0).all()
    assert not gradient().any()


def test_a_picture_goes_through_its_coefficients_and_back() -> None:
    for height, width in ((48, 64), (33, 47), (8, 9)):
        picture = noise(0, 2, 3, height, width)
        picture[0, 0] = torch.arange(width) % 2  # Black and white lines, which no sigmoid reaches.
        spectrum = spectrum_of(picture)
        assert spectrum.shape == (2, 3, height, width // 2 + 1, 2)
        torch.testing.assert_close(
            fourier_picture(spectrum, width), picture.clamp(EDGE, 1 - EDGE), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("kind", [FOURIER, PIXELS])
@pytest.mark.parametrize("variants", [1, 2])
def test_what_starts_from_a_picture_begins_as_its_middle(tiny_models: Path, kind: int, variants: int) -> None:
    """The middle third of a picture three times as wide as high; the first step is next to none."""
    photo = resize(noise(0, 1, 3, 6, 18), (120, 360)).clamp(0.02, 0.98)
    task = make_task(
        tiny_models,
        objective(channel={"layer": LAYER, "channel": 3}),
        images={"start": photo},
        parametrisation=kind,
        variants=variants,
        size=120,
        steps=1,
        learning_rate=1e-9,
        decay=0,
        blur_every=0,
    )
    images = run(task)[1]["images"]
    far = float((images - photo[..., 120:240]).abs().max())
    assert far < (1e-4 if variants == 1 else 0.08)
    assert variants == 1 or not torch.equal(images[0], images[1])


def test_the_middle_covers_what_is_asked_for() -> None:
    ramp = torch.linspace(0, 1, 101).expand(1, 1, 51, 101)
    torch.testing.assert_close(covering(ramp, (51, 51)), ramp[..., 25:76])
    torch.testing.assert_close(covering(ramp, (17, 101)), ramp[:, :, :17])
    assert covering(noise(0, 1, 3, 8, 4096), (2048, 32)).shape == (1, 3, 2048, 32)


@pytest.mark.parametrize("kind", [FOURIER, PIXELS])
def test_pictures_need_not_be_square(tiny_models: Path, kind: int) -> None:
    task = make_task(
        tiny_models,
        objective(channel={"layer": LAYER, "channel": 3}),
        parametrisation=kind,
        size=None,
        height=40,
        width=72,
    )
    steps, results = run(task)
    assert results["images"].shape == (1, 3, 40, 72)
    assert steps[-1].losses["objective"] > 2 * steps[0].losses["objective"] > 0


def test_views_are_lucids() -> None:
    """lucid's pad, jitter, scale and rotation, jitter, written as windows; then the middle is seen."""
    picture = noise(0, 2, 3, 40, 56)
    found = drawn(Ranges(12, 4, 0.1, 10), generator(7))(picture)
    rng = generator(7)
    down, right = (4 - int(n) for n in torch.randint(9, (2,), generator=rng))
    ratio, angle = torch.rand(2, 1, generator=rng) * 2 - 1
    low, far = (2 - int(n) for n in torch.randint(5, (2,), generator=rng))
    padded = torch.full((2, 3, 72, 88), GREY)
    padded[:, :, 16:56, 16:72] = picture
    window = padded[:, :, 4 + down : 68 + down, 4 + right : 84 + right]
    seen = scaled_and_turned(window, 1 + 0.1 * ratio, 10 * angle)
    wanted = seen[:, :, 12 + low : 52 + low, 12 + far : 68 + far]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_view_of_nothing_changes_nothing_and_without_grey_it_rolls() -> None:
    picture = noise(0, 1, 3, 24, 30)
    for pad in (0, 12):
        assert torch.equal(drawn(Ranges(pad, 0, 0, 0), generator(3))(picture), picture)
    rolled = drawn(Ranges(0, 4, 0, 0), generator(3))(picture)
    assert not torch.equal(rolled, picture)
    assert torch.equal(rolled.flatten().sort().values, picture.flatten().sort().values)


def test_transforms_turn_about_the_centre() -> None:
    image = torch.full((1, 3, 40, 56), GREY)
    image[:, :, 20, 28] = 1
    one, none = torch.ones(1), torch.zeros(1)
    torch.testing.assert_close(scaled_and_turned(image, one, none), image, atol=1e-5, rtol=0)
    x = torch.linspace(0, 1, 41).expand(1, 3, 41, 41).clone()
    turned = scaled_and_turned(x, one, 30 * one)
    slope = turned[0, 0, 20, 21] - turned[0, 0, 20, 19]
    assert float(slope) == pytest.approx(math.cos(math.radians(30)) * 2 / 40, abs=1e-3)


def test_without_transforms_the_network_sees_the_picture_itself(tiny_models: Path) -> None:
    """So the loss of a step is the objective of the picture before it: that of the start, at first."""
    photo, wanted = noise(0, 1, 3, 48, 48), objective(channel={"layer": LAYER, "channel": 3})
    task = make_task(tiny_models, wanted, images={"start": photo}, steps=1, transforms=STILL)
    (step,), _ = run(task)
    before = task.network.taps(photo.clamp(EDGE, 1 - EDGE), [LAYER])[LAYER][0, 3].mean()
    torch.testing.assert_close(step.losses["objective"], before)


def test_an_objective_adds_up_over_networks_each_at_its_size(tmp_path: Path) -> None:
    """Another network of half the input size sees the pictures halved; its own mean is in its weights."""
    other = add_copy(tmp_path, "half", input_size=48, min_size=32, mean=(0.3, 0.4, 0.5))
    add_tiny_model(tmp_path)
    two = job_pb2.Objective(
        terms=[
            {"target": {"class_score": {"index": 2}}, "weight": 1},
            {
                "target": {"channel": {"layer": "features.relu2", "channel": 1}},
                "weight": -0.5,
                "model": {"name": "half", "version": 1},
            },
        ]
    )
    task = make_task(tmp_path, two, size=96, steps=3)
    steps, results = run(task)
    halved = resize(results["images"], (48, 48))
    values = (
        task.network.taps(results["images"], ["classifier"])["classifier"][0, 2],
        load_network(ModelRepository(tmp_path).get("half")).taps(halved, ["features.relu2"])[
            "features.relu2"
        ],
    )
    torch.testing.assert_close(results["values"][0], values[0] - 0.5 * values[1][0, 1].mean())
    (shown,) = results["visualisation"].objectives
    labels = task.manifest.labels
    assert shown.name == f"{labels[2]} (2) - 0.5 features.relu2:1 of half/1"
    assert other.input_size == 48
    assert steps[-1].total == 3


@pytest.mark.parametrize("power", [0, 1, 2.5])
def test_caricatures_are_lucids(tiny_models: Path, power: float) -> None:
    """dot cossim^power of lucid's recipe in float64; its cosine lacks |y|, its sum is not over positions."""
    photo, pictures = noise(0, 1, 3, 64, 48), noise(1, 3, 3, 48, 48)
    pictures[2] = 1 - photo[0, :, 8:56]
    wanted = job_pb2.Objective(
        terms=[{"caricature": {"layer": "features.conv3_1", "power": power}, "weight": 1}]
    )
    task = make_task(tiny_models, wanted, images={"objectives[0].terms[0].caricature.image": photo})
    found, _ = objectives.measured(objectives.terms(task, 0), pictures)
    layer = "features.conv3_1"
    y = task.network.taps(photo[:, :, 8:56], [layer])[layer][0].double().numpy()
    for value, x in zip(found, task.network.taps(pictures, [layer])[layer].double().numpy(), strict=True):
        dot = (x * y).sum()
        cossim = max(0.1, dot / np.sqrt((x**2).sum()) / np.sqrt((y**2).sum()))
        assert float(value) == pytest.approx(dot * cossim**power / y[0].size, rel=1e-4)


def test_a_caricature_and_its_picture_are_seen_under_one_view(tiny_models: Path) -> None:
    """Where the picture is the start, both are one at each step: without a step the cosine stays 1."""
    photo = noise(0, 1, 3, 48, 48).clamp(0.1, 0.9)
    wanted = job_pb2.Objective(
        terms=[
            {"caricature": {"layer": LAYER, "power": power}, "weight": weight}
            for power, weight in ((0, 1), (8, -1))
        ]
    )
    pictures = {f"objectives[0].terms[{place}].caricature.image": photo for place in (0, 1)}
    still = {"learning_rate": 1e-9, "decay": 0, "blur_every": 0, "steps": 6}
    for kind in (FOURIER, PIXELS):
        images = {"start": photo, **pictures}
        steps, results = run(make_task(tiny_models, wanted, images=images, parametrisation=kind, **still))
        assert max(abs(float(step.losses["objective"])) for step in steps) < 1e-4
        assert results["visualisation"].objectives[0].name == f"caricature at {LAYER} - caricature at {LAYER}"


def test_a_caricature_grows_what_is_there(tiny_models: Path) -> None:
    photo = noise(0, 1, 3, 48, 48)
    wanted = job_pb2.Objective(terms=[{"caricature": {"layer": LAYER, "power": 1}, "weight": 1}])
    images = {"objectives[0].terms[0].caricature.image": photo, "start": photo}
    task = make_task(tiny_models, wanted, images=images, steps=12)
    _, results = run(task)
    itself, _ = objectives.measured(objectives.terms(task, 0), photo)
    assert float(results["values"][0]) > float(itself)
