"""Attacks carried from model to model, beside noise of the same length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import techniques
from support.adversarial import drawings, make_task
from support.repository import add_copy

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2
from convlens_models.repository import ModelRepository
from convlens_workers.jobs.techniques.base import Resources, Submission
from convlens_workers.jobs.techniques.transfer_matrix import classes_are_shared, complete
from convlens_workers.networks import Networks
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Host
from convlens_workers.techniques.parts.balls import length
from convlens_workers.techniques.transfer_matrix import noise_like

OWN = ModelRepository().get().manifest


def matrix(root: Path, *models: str, epsilon: float = 4 / 255):
    host = Host(Networks(ModelRepository(root), torch.device("cpu"), limit=1))
    task = make_task(
        *drawings(5),
        lambda labels, images: adversarial_pb2.TransferMatrix(
            images=images,
            labels=labels,
            models=[{"name": name} for name in models],
            epsilon=epsilon,
            steps=5,
        ),
        host,
    )
    return techniques.finished(begin("transfer_matrix", task))


def test_a_copy_falls_for_what_its_original_falls_for(tmp_path: Path) -> None:
    add_copy(tmp_path, "copy")
    results = matrix(tmp_path, "copy")
    own = results["matrix"][0, 0]
    assert 0 < own <= 1
    assert torch.equal(results["matrix"], own.expand(2, 2))
    assert (results["noise"] < own).all()
    assert [model.name for model in results["transfer"].models] == ["patterns", "copy"]
    assert results["transfer"].accuracies == [1, 1]


def test_a_model_of_another_size_gets_the_pictures_scaled(tmp_path: Path) -> None:
    add_copy(tmp_path, "large", input_size=OWN.input_size * 3 // 2)
    results = matrix(tmp_path, "large")
    assert results["transfer"].accuracies[0] == 1
    assert 0 < results["transfer"].accuracies[1] <= 1  # Of pictures half as large again.
    assert results["matrix"].diagonal().min() > 0  # It is attacked at its own size.


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    add_copy(tmp_path, "other", labels=[f"class {i}" for i in range(len(OWN.labels))])
    with pytest.raises(InvalidArgument, match=r"transfer_matrix\.models\[0\]"):
        matrix(tmp_path, "other")


def test_noise_is_as_long_as_the_change_and_stays_in_the_range() -> None:
    rng = torch.Generator().manual_seed(0)
    images, change = torch.rand(4, 3, 8, 8, generator=rng).round(decimals=1), torch.randn(4, 3, 8, 8) / 100
    noise = noise_like(images, change, rng)
    assert torch.allclose(length(noise), length(change))
    assert noise.flatten(1).abs().std(1).max() < 1e-7
    assert (images + noise).min() >= 0
    assert (images + noise).max() <= 1
    inner = noise[(images > 0.2) & (images < 0.8)]
    assert abs((inner > 0).float().mean() - 0.5) < 0.1


def test_the_server_picks_models_of_the_same_classes(tmp_path: Path) -> None:
    add_copy(tmp_path, "copy", version=1)
    add_copy(tmp_path, "copy", version=2)
    add_copy(tmp_path, "other", labels=[f"class {i}" for i in range(len(OWN.labels))])
    repository = ModelRepository(tmp_path)

    def picked(*models: dict) -> list[tuple[str, int]]:
        params = adversarial_pb2.TransferMatrix(models=models)
        job = Submission("transfer_matrix", params, OWN, resources=Resources(repository))
        complete(job)
        classes_are_shared(job)
        return [(model.name, model.version) for model in params.models]

    assert picked() == [("copy", 2)]
    assert picked({"name": "copy", "version": 1}, {"name": "patterns"}) == [
        ("copy", 1),
        ("patterns", OWN.version),
    ]
    with pytest.raises(InvalidArgument, match=r"transfer_matrix\.models\[1\] = 'other'"):
        picked({"name": "copy"}, {"name": "other"})
    for number in range(17):
        add_copy(tmp_path, f"copy{number}")
    with pytest.raises(InvalidArgument, match="at most 16"):
        picked()
