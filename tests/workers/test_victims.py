"""Victims: what they are asked over the wire, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from support.foreign_onnx import classifier, save
from support.open_inference import OneModel, serving_oip
from support.server_thread import serving
from support.tiny_model import NAME

from convlens.errors import FailedPrecondition, InvalidArgument, Unavailable
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.manifest import Manifest
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository
from convlens_workers import victims
from convlens_workers.jobs.techniques.substitute import address_of
from convlens_workers.victims import opened, parts

SHAPE = (70, 40, 48, 3)


@pytest.fixture
def manifest(tiny_models: Path) -> Manifest:
    return ModelRepository(tiny_models).get(NAME).manifest


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def expected(tiny_models: Path, images: np.ndarray) -> np.ndarray:
    """Probabilities by the network in this process."""
    network = load_network(ModelRepository(tiny_models).get(NAME))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return network(pixels).softmax(1).numpy()


@pytest.fixture
def oip(tiny_models: Path) -> Iterator[OneModel]:
    network = load_network(ModelRepository(tiny_models).get(NAME))
    return OneModel(lambda pixels: network(torch.tensor(pixels)).numpy())


def test_a_convlens_server_tells_all_probabilities(
    tiny_models: Path, manifest: Manifest, images: np.ndarray, expected: np.ndarray
) -> None:
    with (
        serving(models=tiny_models, threads=1, lanes=1) as app,
        opened(app.address, manifest) as victim,
        opened(f"{app.address}/{NAME}", manifest) as named,
    ):
        np.testing.assert_allclose(victim.ask(images), expected, atol=1e-5)
        np.testing.assert_allclose(named.ask(images[:2]), expected[:2], atol=1e-5)
        with (
            opened(f"{app.address}/other", manifest) as other,
            pytest.raises(FailedPrecondition, match=r"the victim refuses: .*other"),
        ):
            other.ask(images)


@pytest.mark.parametrize("raw", [True, False])
def test_logits_of_an_open_inference_server_become_probabilities(
    oip: OneModel, manifest: Manifest, images: np.ndarray, expected: np.ndarray, raw: bool
) -> None:
    oip._raw = raw
    with serving_oip(oip) as address, opened(address, manifest) as victim:
        np.testing.assert_allclose(victim.ask(images), expected, atol=1e-5)
    np.testing.assert_array_equal(np.stack(oip.images).transpose(0, 2, 3, 1) * 255, images)


def test_probabilities_stay_what_they_are(
    manifest: Manifest, images: np.ndarray, expected: np.ndarray
) -> None:
    answers = iter(np.split(expected, [64]))
    model = OneModel(lambda _: next(answers))
    with serving_oip(model) as address, opened(address, manifest) as victim:
        np.testing.assert_array_equal(victim.ask(images), expected)


def test_a_victim_of_independent_classes_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    path = save(classifier(end="Sigmoid", size=("N", 3, "H", "W")), tmp_path)
    manifest = add_onnx(tmp_path / "models", path, "many")
    with (
        serving(models=tmp_path / "models", threads=1, lanes=1) as app,
        opened(app.address, manifest) as victim,
        pytest.raises(FailedPrecondition, match="classes are independent"),
    ):
        victim.ask(images[:1])


def test_a_model_of_batch_one_is_asked_one_by_one(oip: OneModel, manifest: Manifest) -> None:
    oip._shape, sizes, scores = (1, 3, -1, -1), [], oip._scores
    oip._scores = lambda pixels: (sizes.append(len(pixels)), scores(pixels))[1]
    with serving_oip(oip) as address, opened(address, manifest) as victim:
        victim.ask(np.zeros((3, 40, 48, 3), np.uint8))
    assert sizes == [1, 1, 1]


@pytest.mark.parametrize("shape", [(-1, 3, 32, 32), (-1, 40, 48, 3), (3, 40, 48)])
def test_a_model_of_other_pictures_is_refused(
    oip: OneModel, manifest: Manifest, images: np.ndarray, shape: tuple[int, ...]
) -> None:
    oip._shape = shape
    with (
        serving_oip(oip) as address,
        opened(address, manifest) as victim,
        pytest.raises(FailedPrecondition, match=r"FP32 \[-1, 3, 40, 48\]"),
    ):
        victim.ask(images)
    assert not oip.images


def test_a_model_of_other_classes_is_refused(manifest: Manifest, images: np.ndarray) -> None:
    model = OneModel(lambda pixels: np.zeros((len(pixels), 9)))
    with (
        serving_oip(model) as address,
        opened(address, manifest) as victim,
        pytest.raises(FailedPrecondition, match="one of the model's 5 classes"),
    ):
        victim.ask(images)


def test_a_victim_that_is_away_for_a_moment_is_asked_again(
    oip: OneModel, manifest: Manifest, images: np.ndarray, expected: np.ndarray
) -> None:
    oip.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE]
    with serving_oip(oip) as address, opened(address, manifest) as victim:
        np.testing.assert_allclose(victim.ask(images), expected, atol=1e-5)


def test_retries_end(
    oip: OneModel, manifest: Manifest, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(victims, "AWAY_SECONDS", 0.15)
    oip.failures = [grpc.StatusCode.UNAVAILABLE] * 9
    with (
        serving_oip(oip) as address,
        opened(address, manifest) as victim,
        pytest.raises(Unavailable, match="the victim is away: not now"),
    ):
        victim.ask(images)
    assert len(oip.failures) == 7


def test_a_refusal_is_told_at_once(oip: OneModel, manifest: Manifest, images: np.ndarray) -> None:
    oip.failures = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2  # Without RetryInfo: a message too large.
    with (
        serving_oip(oip) as address,
        opened(address, manifest) as victim,
        pytest.raises(FailedPrecondition, match="RESOURCE_EXHAUSTED"),
    ):
        victim.ask(images)
    assert len(oip.failures) == 1


def test_messages_stay_below_what_servers_take(images: np.ndarray) -> None:
    assert [len(part) for part in parts(images, 100)] == [64, 6]
    assert {len(part) for part in parts(images, 1 << 20)} == {3, 1}
    assert [len(part) for part in parts(images[:2], 5 << 20)] == [1, 1]


def test_only_names_of_the_operator_have_addresses() -> None:
    allowed = {"self": "here:1", "theirs": "oip://there:2"}
    assert address_of("", allowed) == "here:1"
    assert address_of("theirs", allowed) == "oip://there:2"
    with pytest.raises(InvalidArgument, match=r"'' *: must be .*\(theirs\); empty means 'self'"):
        address_of("", {"theirs": ""})
    with pytest.raises(InvalidArgument, match=r"'there:2': must be .*\(self, theirs\)$"):
        address_of("there:2", allowed)
    with pytest.raises(InvalidArgument, match="there is none"):
        address_of("self", {})
