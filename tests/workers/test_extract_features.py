"""Extraction of features: right, shared, resumed, and never done twice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.collections import LAYER, MAX, MEAN, extraction, picture, steps, stored_bytes
from support.tiny_model import NAME

from convlens.errors import NotFound, Unavailable
from convlens.v1 import image_pb2, job_pb2, model_pb2
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository
from convlens_server.backends.cache import LruCache
from convlens_server.backends.onnx_backend import OnnxBackend
from convlens_server.backends.providers import Compute
from convlens_workers.collections import CollectionFiles, FeatureSet
from convlens_workers.networks import Networks
from convlens_workers.retry_proxy import RetryProxy
from convlens_workers.techniques.base import Task
from convlens_workers.techniques.extract_features import extract_features

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def files() -> CollectionFiles:
    return CollectionFiles("memory:///")


@pytest.fixture
def shards(files: CollectionFiles) -> list[str]:
    """Three shards of 20, 20 and 7 images."""
    digests = [files.put_image("c", picture(seed)) for seed in range(47)]
    return [files.put_shard("c", digests[start : start + 20]) for start in (0, 20, 40)]


def test_features_are_pooled_values_of_the_network(files, shards, tiny_models: Path) -> None:
    task = extraction(tiny_models, NAME, files, shards)
    taken = steps(task)
    assert [step.number for step in taken] == [16, 20, 36, 40, 47]
    assert {step.total for step in taken} == {47}
    for shard in shards:
        images = [image_pb2.Image(encoded=files.image("c", digest)) for digest in files.shard("c", shard)]
        batch = torch.from_numpy(np.stack([to_input(image, task.manifest) for image in images]))
        value = task.network.taps(batch, [LAYER])[LAYER].numpy()
        mean = files.features("c", FeatureSet(task.manifest.digest, LAYER, MEAN), shard)
        maximum = files.features("c", FeatureSet(task.manifest.digest, LAYER, MAX), shard)
        np.testing.assert_allclose(mean.values, value.mean(axis=(2, 3)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(maximum.values, value.max(axis=(2, 3)), rtol=1e-5, atol=1e-6)
        y, x = np.divmod(maximum.positions, maximum.width)
        at = value[np.arange(len(value))[:, None], np.arange(value.shape[1])[None], y, x]
        np.testing.assert_allclose(at, value.max(axis=(2, 3)), rtol=1e-5, atol=1e-6)


def test_what_is_done_is_not_done_again(files, shards, tiny_models: Path) -> None:
    steps(extraction(tiny_models, NAME, files, shards[:2]))
    more = steps(extraction(tiny_models, NAME, files, shards))
    assert [step.number for step in more] == [47]
    assert steps(extraction(tiny_models, NAME, files, shards)) == []


def test_resumed_after_any_step_it_leaves_the_same_bytes(shards, tiny_models: Path) -> None:
    reference = extraction(tiny_models, NAME, _filled(), shards)
    count = len(steps(reference))
    for stop in range(1, count + 1):
        files = _filled()
        task = extraction(tiny_models, NAME, files, shards)
        technique = extract_features(task)
        for _ in range(stop):
            step = next(technique)
        technique.close()
        state = {name: value.clone() for name, value in step.state.items()}
        rest = steps(task, state)
        assert len(rest) == count - stop
        assert stored_bytes(task) == stored_bytes(reference)


def test_several_share_the_shards_and_do_none_twice(files, shards, tiny_models: Path) -> None:
    parts = [extract_features(extraction(tiny_models, NAME, files, shards, part)) for part in range(2)]
    first = [next(part) for part in parts]
    assert first[0].state["shard"] != first[1].state["shard"]
    later = [list(part) for part in reversed(parts)][::-1]
    shards_done = [{int(step.state["shard"]) for step in [first[n], *later[n]]} for n in range(2)]
    assert shards_done[0] | shards_done[1] == {0, 1, 2}
    assert not shards_done[0] & shards_done[1]


def test_a_claim_that_was_left_over_delays_nothing_for_ever(files, shards, tiny_models: Path) -> None:
    lost = extract_features(extraction(tiny_models, NAME, files, shards, part=1))
    next(lost)
    lost.close()  # As if its worker had died before it could save anything.
    helper = extraction(tiny_models, NAME, files, shards, part=2)
    assert len(stored_bytes(helper)) == 0
    steps(helper)
    assert len(stored_bytes(helper)) == 2 * (len(shards) - 1)
    steps(extraction(tiny_models, NAME, files, shards))
    assert len(stored_bytes(helper)) == 2 * len(shards)


def test_networks_that_came_as_onnx_have_features_too(files, shards, tmp_path: Path) -> None:
    from support.foreign_onnx import classifier, save

    from convlens_models.importing.onnx_import import add_onnx

    add_onnx(tmp_path / "models", save(classifier(), tmp_path), name="foreign")
    networks = Networks(ModelRepository(tmp_path / "models"), torch.device("cpu"), 1)
    ref = model_pb2.ModelRef(name="foreign")
    network, manifest = networks.get(ref)
    layer = manifest.layers[0].name
    params = job_pb2.ExtractFeatures(collection="c", layers=[layer], poolings=[MEAN], shards=shards)
    task = Task(params, network, manifest, {}, 0, torch.device("cpu"), files)
    assert steps(task)[-1].number == 47
    stored = files.features("c", FeatureSet(manifest.digest, layer, MEAN), shards[2])
    images = [image_pb2.Image(encoded=files.image("c", digest)) for digest in files.shard("c", shards[2])]
    batch = np.stack([to_input(image, manifest) for image in images])
    stored_model = ModelRepository(tmp_path / "models").get("foreign")
    backend = OnnxBackend(stored_model, LruCache(1e9), Compute(lambda: 1))
    expected = backend.forward(batch, [layer])[layer].mean(axis=(2, 3))
    np.testing.assert_allclose(stored.values, expected, rtol=1e-4, atol=1e-6)


def test_a_store_that_is_away_is_waited_for(files, shards, tiny_models: Path) -> None:
    away = [True, False, True, True]

    def read(collection: str, digest: str) -> bytes:
        if away and away.pop():
            raise Unavailable("the artifact store is away")
        return CollectionFiles.image(files, collection, digest)

    def retry(call: Callable[[], Any]) -> Any:
        while True:
            with suppress(Unavailable):
                return call()

    files.image = read
    with pytest.raises(Unavailable):
        steps(extraction(tiny_models, NAME, files, shards))
    task = extraction(tiny_models, NAME, RetryProxy(files, retry), shards)
    assert steps(task)[-1].number == 47
    assert not away
    assert len(stored_bytes(task)) == 2 * len(shards)


def test_a_deleted_collection_ends_the_job(files, shards, tiny_models: Path) -> None:
    files.drop("c")
    with pytest.raises(NotFound):
        steps(extraction(tiny_models, NAME, files, shards))


def _filled() -> CollectionFiles:
    files = CollectionFiles("memory:///")
    digests = [files.put_image("c", picture(seed)) for seed in range(47)]
    for start in (0, 20, 40):
        files.put_shard("c", digests[start : start + 20])
    return files
