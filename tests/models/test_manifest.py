"""Which sizes a network takes for those who read some of its layers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convlens_models.architectures import ARCHITECTURES
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import Manifest
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    """AlexNet with random weights and few classes: its linear head takes one size."""
    root: Path = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_file(ARCHITECTURES["alexnet"].build(3).state_dict(), root / "weights.safetensors")
    labels = root / "labels.txt"
    labels.write_text("a\nb\nc")
    add_architecture(root, "alexnet", root / "weights.safetensors", labels)
    return ModelRepository(root)


@pytest.mark.parametrize("layer", ["features.1", "features.5", "features.11", "features.12"])
def test_the_least_side_leaves_a_position_and_one_stride_less_leaves_none(
    alexnet: ModelRepository, layer: str
) -> None:
    stored = alexnet.get("alexnet")
    seen, network = stored.manifest.read_at([layer]), load_network(stored)
    assert (seen.dynamic_size, stored.manifest.dynamic_size) == (True, False)
    assert seen.digest == stored.manifest.digest
    least, stride = seen.min_size, stored.manifest.layer(layer).stride
    assert network.taps(torch.rand(1, 3, least, least + 9), [layer])[layer].shape[2] >= 1
    with pytest.raises(RuntimeError):
        network.taps(torch.rand(1, 3, least - stride, 99), [layer])


def test_who_reads_the_head_sees_one_size(alexnet: ModelRepository) -> None:
    manifest: Manifest = alexnet.get("alexnet").manifest
    for layers in ([], [manifest.output], ["features.1", manifest.output]):
        assert manifest.read_at(layers) is manifest


def test_graphs_of_one_size_stay_so_unless_a_layer_is_proven_to_take_any(alexnet: ModelRepository) -> None:
    manifest = alexnet.get("alexnet").manifest.model_copy(update={"architecture": "onnx"})
    assert manifest.read_at(["features.1"]) is manifest
    proven = manifest.layer("features.1").model_copy(update={"any_size": True})
    known = manifest.model_copy(update={"layers": (*manifest.layers[:1], proven, *manifest.layers[2:])})
    assert known.read_at(["features.1"]).dynamic_size
    assert known.read_at(["features.1", "features.5"]) is known


def test_a_pool_to_the_size_of_the_head_belongs_to_it(alexnet: ModelRepository) -> None:
    manifest = alexnet.get("alexnet").manifest
    assert manifest.read_at(["avgpool"]) is manifest
    assert manifest.why_one_size.endswith("where its head is read, from avgpool on")


def test_versions_that_say_nothing_of_sizes_keep_their_digest(alexnet: ModelRepository) -> None:
    manifest = alexnet.get("alexnet").manifest
    content = manifest.model_dump(mode="json")
    for layer in content["layers"]:
        assert layer.pop("any_size") is False
    assert Manifest.model_validate(content) == manifest
    later = {"name", "version", "batching", "task", "digest", "class_ids", "parent", "proof", "size_multiple"}
    stated = {key: content[key] for key in content.keys() - later}
    assert manifest.digest == hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
