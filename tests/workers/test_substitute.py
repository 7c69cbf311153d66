"""Substitute attacks: what they ask, and that nothing is asked twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from support import techniques
from support.open_inference import OneModel, serving_oip
from support.tiny_model import NAME

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2, image_pb2
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Host, State, Step, Task
from convlens_workers.techniques.parts.query_set import as_noisy, pixels
from convlens_workers.techniques.parts.substitute_model import SubstituteModel

SEEDS, HELD_OUT, ROUNDS, BUDGET = 40, 6, 2, 100

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def victim(tiny_models: Path) -> Iterator[tuple[OneModel, str]]:
    network = load_network(ModelRepository(tiny_models).get(NAME))
    model = OneModel(lambda images: 40 * network(torch.tensor(images)).numpy())
    with serving_oip(model) as address:
        yield model, address


@pytest.fixture
def task(victim: tuple[OneModel, str], tiny_models: Path) -> Task[adversarial_pb2.Substitute]:
    stored = ModelRepository(tiny_models).get(NAME)
    picture = image_pb2.Image(encoded=b"the worker has read it")
    params = adversarial_pb2.Substitute(
        images=[picture] * SEEDS,
        held_out=[picture] * HELD_OUT,
        rounds=ROUNDS,
        step_size=0.1,
        queries=BUDGET,
        epochs=2,
        epsilon=16 / 255,
    )
    rng = torch.Generator().manual_seed(1)
    images = {f"images[{i}]": torch.rand(1, 3, 32, 32, generator=rng) for i in range(SEEDS)}
    images |= {f"held_out[{i}]": torch.rand(1, 3, 32, 32, generator=rng) for i in range(HELD_OUT)}
    images["images[1]"] = images["images[0]"]
    device, files = torch.device("cpu"), CollectionFiles("memory:///")
    host = Host(victims={"self": victim[1], "theirs": "192.0.2.1:1"})
    return Task(params, load_network(stored), stored.manifest, images, 3, device, files, host)


def run(task: Task, state: State | None = None) -> tuple[list[Step], dict]:
    return techniques.run(begin("substitute", task, state))


def test_it_asks_each_picture_once_and_within_its_budget(task: Task, victim: tuple[OneModel, str]) -> None:
    steps, results = run(task)
    assert [step.number for step in steps] == list(range(1, steps[0].total + 1))
    report = results["substitute"]
    asked = {image.tobytes() for image in victim[0].images}
    assert len(asked) == len(victim[0].images) == report.queries + report.measuring_queries
    assert report.queries == BUDGET - 1  # Two of the seeds are the same.
    assert HELD_OUT < report.measuring_queries <= 3 * HELD_OUT
    assert len(report.agreement) == ROUNDS + 1


def test_the_victim_sees_eight_bits_within_epsilon(task: Task, victim: tuple[OneModel, str]) -> None:
    _, results = run(task)
    levels = np.stack(victim[0].images) * 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4)
    shown = results["adversarial"]
    original = torch.cat([task.images[f"held_out[{i}]"] for i in range(HELD_OUT)])
    change = (shown - pixels(original) / 255).abs().amax((1, 2, 3))
    torch.testing.assert_close(change, torch.full((HELD_OUT,), 16 / 255))


def test_the_weights_are_the_copy(task: Task) -> None:
    _, results = run(task)
    weights = load(bytes(results["weights.safetensors"].tolist()))
    model = SubstituteModel(5, torch.device("cpu"))
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in model.weights(model.untrained(0)).items()
    }
    assert results["substitute"].white_box > 0.5


def test_resumed_after_any_step_it_ends_in_the_same_bytes_and_asks_nothing_twice(
    task: Task, victim: tuple[OneModel, str]
) -> None:
    steps, whole = run(task)
    asked = len(victim[0].images)
    for step in steps[:: len(steps) // 5]:
        before = [image.tobytes() for image in victim[0].images[:asked]]
        victim[0].images.clear()
        rest, resumed = run(task, {name: value.clone() for name, value in step.state.items()})
        assert [later.number for later in rest] == [later.number for later in steps[step.number :]]
        known = len(step.state["answers"])
        left = {image.tobytes() for image in victim[0].images}
        assert len(left) == len(victim[0].images) <= asked - known + 1
        assert left <= set(before) or not known
        assert resumed["substitute"] == whole["substitute"]
        assert all(torch.equal(resumed[name], whole[name]) for name in ("adversarial", "weights.safetensors"))
        victim[0].images[:] = [np.frombuffer(data, np.float32) for data in before]


def test_the_seed_decides(task: Task) -> None:
    first, other = (run(replace(task, seed=seed))[1]["weights.safetensors"] for seed in (3, 4))
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("name", "allowed"), [("mine", "self, theirs"), ("192.0.2.1:1", "self, theirs")])
def test_only_victims_of_the_operator_are_asked(task: Task, name: str, allowed: str) -> None:
    task.params.victim = name
    with pytest.raises(InvalidArgument, match=f"CONVLENS_VICTIMS .{allowed}.") as raised:
        run(task)
    assert raised.value.field == "substitute.victim"


def test_a_copy_of_a_teacher_learns_what_it_says(task: Task) -> None:
    """The substitute model alone, taught the brighter colour of plain pictures: 3 classes to get right."""
    model, rng = SubstituteModel(3, torch.device("cpu")), torch.Generator().manual_seed(0)
    held = model.untrained(0)
    for _ in range(40):
        images = torch.rand(32, 3, 1, 1, generator=rng).expand(32, 3, 32, 32)
        answers = torch.nn.functional.one_hot(images[:, :, 0, 0].argmax(1), 3).float()
        held, _ = model.taught(held, images, answers, 3e-3)
    images = torch.rand(200, 3, 1, 1, generator=rng).expand(200, 3, 32, 32)
    assert (model.logits(held, images).argmax(1) == images[:, :, 0, 0].argmax(1)).float().mean() > 0.85


@pytest.mark.parametrize("length", [0.5, 2.0, 8.0])
def test_noise_is_as_long_as_the_attack_in_eight_bits(length: float) -> None:
    rng = torch.Generator().manual_seed(0)
    images = pixels(torch.rand(3, 3, 48, 48, generator=rng)) / 255
    noisy = as_noisy(images, torch.full((3, 1, 1, 1), length), rng)
    torch.testing.assert_close(pixels(noisy) / 255, noisy, rtol=0, atol=1e-6)
    norms = (noisy - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((3,), length), rtol=0.02, atol=0)
