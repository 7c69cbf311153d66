"""Attributions as jobs: the numbers of the quick call, however often the job is stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support import techniques
from support.long_cases import CASES
from support.techniques import make_task
from support.tiny_model import NAME

from convlens_models.attributions import perturbed_batches
from convlens_models.repository import ModelRepository
from convlens_server.backends.cache import LruCache
from convlens_server.backends.onnx_backend import OnnxBackend
from convlens_server.backends.providers import Compute
from convlens_server.quick.attribution import attribute
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Results, State, Step, Task

(CASE,) = (case for case in CASES if case.technique == "attribution_maps")
PIXELS = 32 * 40


@pytest.fixture
def task(tiny_models: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Of batches of two copies."""
    monkeypatch.setattr(perturbed_batches, "BATCH_PIXELS", 2 * PIXELS)
    return make_task(CASE, tiny_models)


def run(task: Task, state: State | None = None) -> tuple[list[Step], Results]:
    return techniques.run(begin("attribution_maps", task, state))


def test_the_maps_are_those_of_the_quick_call(task: Task, tiny_models: Path) -> None:
    backend = OnnxBackend(ModelRepository(tiny_models).get(NAME), LruCache(1e9), Compute(lambda: 1))
    images = torch.cat(list(task.images.values())).numpy()
    _, results = run(task)
    for number, (name, expected, told) in enumerate(attribute(backend, images, task.params.attributions)):
        found = results[name].numpy()
        scale = max(np.abs(expected).max(), np.abs(told.values).max())  # Falls are differences of values.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * scale)
        assert results["attribution"].targets[number].class_indices == told.class_indices
        np.testing.assert_allclose(results["attribution"].targets[number].values, told.values, rtol=1e-5)
    assert number == 3


def test_a_job_goes_on_between_any_two_batches(task: Task) -> None:
    steps, whole = run(task)
    assert len(steps) > 2 * len(task.params.attributions)
    for step in steps[:-1]:
        _, resumed = run(task, {name: value.clone() for name, value in step.state.items()})
        assert all(torch.equal(resumed[name], whole[name]) for name in CASE.artifacts)


def test_previews_are_pictures(task: Task) -> None:
    for step in run(task)[0]:
        assert step.image.shape == (1, 3, 32, 40)
        assert 0 <= step.image.min() <= step.image.max() <= 1
