"""DeepDream as a technique, on a small network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.dreams import make_task, photo, run, values

from convlens.errors import InvalidArgument
from convlens_models.network import Network, load_network
from convlens_models.repository import StoredModel
from convlens_workers.jobs.techniques.deepdream import dream_layers, octaves
from convlens_workers.techniques.base import Task
from convlens_workers.techniques.deepdream import (
    Dream,
    next_octave,
)
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.pixels import random_shift, roll, unit_mean


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
    _, losses = Dream(task, dream_layers(task.params, task.manifest)).direction(photo(), generator(0))
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


@pytest.mark.parametrize(
    ("fields", "wanted"), [((107,), 1.5), ((64, 155), 1.5), ((32, 155), 0.75), ((7,), 0.375), ((0,), 1.5)]
)
def test_low_layers_take_shorter_steps(
    network: Network, stored: StoredModel, fields: tuple[int, ...], wanted: float
) -> None:
    names = [layer.name for layer in stored.manifest.layers][: len(fields)]
    seeing = [
        layer.model_copy(update={"receptive_field": field})
        for layer, field in zip(stored.manifest.layers, fields, strict=False)
    ]
    manifest = stored.manifest.model_copy(update={"layers": tuple(seeing)})
    task = replace(make_task(network, stored, layers=names), manifest=manifest)
    assert Dream(task, names).step_size == pytest.approx(wanted / 255)


def test_a_layer_of_weight_0_does_not_shorten_the_steps(network: Network, stored: StoredModel) -> None:
    layers = ["features.relu2", "features.relu4_1"]
    sizes = [
        Dream(make_task(network, stored, layers=some, weights=weights), some).step_size
        for some, weights in ((layers[1:], []), (layers, [0, 1]), (layers, [0.1, 1]))
    ]
    assert sizes[0] == sizes[1] > sizes[2]


def test_a_step_that_is_given_is_taken(network: Network, stored: StoredModel) -> None:
    task = make_task(network, stored, layers=["features.conv1"], step_size=8.0)
    assert Dream(task, ["features.conv1"]).step_size == 8 / 255


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
    assert octaves((64, 128), task.params, task.manifest) == [(33, 65), (46, 91), (64, 128)]
    assert octaves((20, 40), task.params, task.manifest) == [(20, 40)]


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
    task = make_task(
        network, stored, layers=[layer], channels=[3, 5], octaves=1, jitter=0, steps=1, step_size=1.5
    )
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
