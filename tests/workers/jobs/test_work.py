"""What techniques state of their work, held against the passes that go through their networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from support import techniques
from support.long_cases import CASES, Case
from support.techniques import make_task
from torch import Tensor

from convlens_models.manifest import LOG_PROBABILITIES
from convlens_models.network import Network
from convlens_models.repository import ModelRepository
from convlens_workers.jobs.techniques import SPECIFICATIONS
from convlens_workers.jobs.techniques.work import FORWARD, GRADIENT, Estimate, Pass, Steps
from convlens_workers.techniques import begin

ALL_OF_IT = {
    "attack_ensemble": {"STANDING": 2 / 3},
    "carlini_wagner": {"RUNNING": 0.5},
    "lbfgs_attack": {"EXPECTED": 3.4},
}
"""The expectations that hold for these cases, of techniques whose work depends on how the job goes."""
UNSURE = {"attack_ensemble", "style_transfer", "texture", "lbfgs_attack"}
"""Where even so a picture more or less may go through."""
FACTOR = 1.5

Kind = tuple[tuple[int, int], int, frozenset[str]]
"""Size, way and layers of a pass."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[Kind]:
    """The number of pictures that have gone through any network, by the kind of the pass."""
    counted: Counter[Kind] = Counter()
    taps = Network.taps

    def counting(self: Network, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        names = frozenset(layers)
        way = GRADIENT if torch.is_grad_enabled() and images.requires_grad else FORWARD
        counted[(images.shape[2], images.shape[3]), way, names] += len(images)
        return taps(self, images, names)

    monkeypatch.setattr(Network, "taps", counting)
    return counted


def stated(work: Iterable[Steps]) -> Counter[Kind]:
    """The same, as a technique states it."""
    counted: Counter[Kind] = Counter()
    for part in work:
        for times, passes in ((part.count, part.passes), (1, part.before)):
            for one in passes:
                if not isinstance(one.network, (int, float)) and times * one.pictures:
                    names = frozenset(one.layers or (LOG_PROBABILITIES,))
                    counted[one.size, one.way, names] += times * one.pictures
    return counted


def work_of(kinds: Counter[Kind]) -> float:
    """Pixels that go through networks, there or back."""
    return sum(height * width * way * count for ((height, width), way, _), count in kinds.items())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.technique)
def test_a_technique_does_what_it_has_stated(
    case: Case, tiny_models: Path, seen: Counter[Kind], one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what, share in ALL_OF_IT.get(case.technique, {}).items():
        monkeypatch.setattr(f"convlens_workers.jobs.techniques.{case.technique}.{what}", share)
    task = make_task(case, tiny_models)
    work = list(SPECIFICATIONS[case.technique].work(task.submission(case.technique)))
    steps, _ = techniques.run(begin(case.technique, task))
    if case.technique == "measure_receptive_field":
        assert not sum(part.count for part in work)  # Not known before the unit is found.
        return
    assert sum(part.count for part in work) == steps[-1].total
    if case.technique in UNSURE and work_of(stated(work)) != work_of(seen):
        assert 1 / FACTOR < work_of(stated(work)) / work_of(seen) < FACTOR
        assert {kind[0] for kind in stated(work)} == {kind[0] for kind in seen}
    else:
        assert stated(work) == seen


def test_what_is_left_counts_down_as_steps_weigh() -> None:
    small, large = Pass((10, 10), network=1.0), Pass((20, 20), network=1.0)
    manifest = ModelRepository().get().manifest
    work = [Steps(0, before=(small,)), Steps(4, (small,)), Steps(2, (large,), before=(small,))]
    estimate = Estimate(work, manifest, ModelRepository())
    assert (estimate.steps, estimate.cost) == (6, 200 + 4 * 200 + 200 + 2 * 800)
    assert [estimate.until(step) for step in range(7)] == [200, 400, 600, 800, 1000, 2000, 2800]
    assert Estimate([], manifest, ModelRepository()).until(3) == 3


def test_only_what_runs_up_to_the_last_layer_counts() -> None:
    """SqueezeNet-like counting by hand: the first convolution alone, then the whole."""
    repository = ModelRepository()
    manifest = repository.get().manifest
    side = manifest.input_size

    def cost(size: tuple[int, int], layers: tuple[str, ...] | None) -> float:
        return Estimate([Steps(1, (Pass(size, 1, FORWARD, layers),))], manifest, repository).cost

    weights = repository.get().weights()
    first = next(layer for layer in manifest.layers if layer.weight)
    kernel = weights[first.weight].size
    assert cost((side, side), (first.name,)) == kernel * first.shape[1] * first.shape[2]
    assert cost((side, side), None) == manifest.multiply_adds
    linear = weights[manifest.layer(manifest.output).weight].size
    assert cost((2 * side, side), None) == 2 * (manifest.multiply_adds - linear) + linear
