"""The model repository: what it finds, and what it does not trust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.repository import add_copy

from convlens.errors import DataLoss, InvalidArgument, NotFound
from convlens_models import repository
from convlens_models.manifest import Manifest
from convlens_models.repository import FORWARD, MANIFEST, WEIGHTS, ModelRepository, default_root, sha256


def reseal(folder: Path) -> None:
    """Give the manifest in `folder` the digests of the files that lie there now."""
    content = json.loads((folder / MANIFEST).read_text())
    content["files"] = {name: sha256(folder / name) for name in content["files"]}
    manifest = Manifest.model_validate({**content, "digest": ""}).sealed()
    (folder / MANIFEST).write_text(manifest.model_dump_json())


def test_the_embedded_model_is_always_there(tmp_path: Path):
    for root in (None, tmp_path, tmp_path / "absent"):
        (manifest,) = ModelRepository(root).list()
        assert (manifest.name, manifest.version, manifest.architecture) == ("patterns", 1, "patterns")
    assert ModelRepository().get("").manifest == ModelRepository().get().manifest == manifest


def test_newest_versions_first_and_numbers_are_numbers(tmp_path: Path):
    for version in (1, 2, 10):
        add_copy(tmp_path, "mine", version)
    models = ModelRepository(tmp_path)
    assert [(m.name, m.version) for m in models.list()] == [("mine", 10), ("patterns", 1)]
    assert [m.version for m in models.list(all_versions=True) if m.name == "mine"] == [10, 2, 1]
    assert models.get("mine").manifest.version == 10
    assert models.get("mine", 2).manifest.version == 2


def test_what_is_added_is_seen_at_once_and_lies_over_the_embedded(tmp_path: Path):
    models = ModelRepository(tmp_path)
    assert models.get().path.is_relative_to(repository.EMBEDDED)
    add_copy(tmp_path, "patterns", 1)
    assert models.get().path.is_relative_to(tmp_path)
    assert len(models.list(all_versions=True)) == 1


@pytest.mark.parametrize(
    "name", ["../patterns", "a/b", ".", "..", "/etc", "absent", "Patterns", "a\0b", "x" * 65]
)
def test_unknown_and_evil_names_are_not_found(name: str, tmp_path: Path):
    with pytest.raises(NotFound, match=r"no model .*; there are patterns"):
        ModelRepository(tmp_path).get(name)


@pytest.mark.parametrize("version", [0, -1, 2, 10**30])
def test_unknown_versions_are_not_found(version: int):
    with pytest.raises(NotFound, match=r"no version .*; it has \[1\]"):
        ModelRepository().get("patterns", version)


@pytest.mark.parametrize("folder", ["01", "1x", "-1", "0", ".adding-1", "²"])
def test_other_folders_are_no_versions(folder: str, tmp_path: Path):
    add_copy(tmp_path, "mine")
    (tmp_path / "mine" / "1").rename(tmp_path / "mine" / folder)
    assert not ModelRepository(tmp_path).versions("mine")


def test_a_changed_file_is_data_loss(tmp_path: Path):
    add_copy(tmp_path, "mine")
    stored = ModelRepository(tmp_path).get("mine")
    stored.forward()
    path = stored.path / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataLoss, match=r"weights\.safetensors does not match its digest"):
        stored.weights()
    path.unlink()
    with pytest.raises(DataLoss, match="cannot be read"):
        stored.weights()


def test_digests_are_computed_once_for_each_state_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    add_copy(tmp_path, "mine")
    stored = ModelRepository(tmp_path).get("mine")
    read: list[Path] = []
    monkeypatch.setattr(repository, "sha256", lambda path: read.append(path) or sha256(path))
    for _ in range(3):
        stored.file(WEIGHTS)
    assert len(read) == 1
    os.utime(stored.path / WEIGHTS, ns=(1, 1))
    stored.file(WEIGHTS)
    assert len(read) == 2


def test_a_manifest_that_was_edited_is_data_loss_and_left_out_of_lists(tmp_path: Path, caplog):
    add_copy(tmp_path, "mine")
    path = tmp_path / "mine" / "1" / MANIFEST
    path.write_text(path.read_text().replace('"patterns"', '"patternz"', 1))
    with pytest.raises(DataLoss, match="does not match its own digest"):
        ModelRepository(tmp_path).get("mine")
    assert [manifest.name for manifest in ModelRepository(tmp_path).list()] == ["patterns"]
    assert "mine/1 is left out" in caplog.text


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"name": 3}', "\0"])
def test_a_damaged_manifest_is_data_loss(content: str, tmp_path: Path):
    add_copy(tmp_path, "mine")
    (tmp_path / "mine" / "1" / MANIFEST).write_text(content)
    with pytest.raises(DataLoss, match="is damaged"):
        ModelRepository(tmp_path).get("mine")


def test_a_model_under_another_name_is_data_loss(tmp_path: Path):
    add_copy(tmp_path, "mine")
    (tmp_path / "mine").rename(tmp_path / "yours")
    with pytest.raises(DataLoss, match="is that of mine/1"):
        ModelRepository(tmp_path).get("yours")


def test_links_out_of_the_repository_are_refused_and_links_inside_are_not(tmp_path: Path):
    add_copy(tmp_path / "outside", "mine")
    root = tmp_path / "root"
    add_copy(root, "mine")
    (root / "mine" / "1" / WEIGHTS).unlink()
    (root / "mine" / "1" / WEIGHTS).symlink_to(tmp_path / "outside" / "mine" / "1" / WEIGHTS)
    with pytest.raises(DataLoss, match="leads out of the model repository"):
        ModelRepository(root).get("mine").weights()
    (root / "linked").symlink_to(tmp_path / "outside" / "mine")
    with pytest.raises(DataLoss, match="leads out of the model repository"):
        ModelRepository(root).get("linked")
    add_copy(root, "yours")
    (root / "yours" / "1" / WEIGHTS).rename(root / "yours" / "shared")
    (root / "yours" / "1" / WEIGHTS).symlink_to("../shared")
    assert ModelRepository(root).get("yours").weights()


EXTERNAL = {
    "another file": {"location": "other.bin"},
    "a path upwards": {"location": "../../secret"},
    "an absolute path": {"location": "/etc/passwd"},
    "no place": {"location": ""},
    "beyond the end": {"offset": "100000000"},
    "before the start": {"offset": "-4"},
    "too long": {"length": "100000000"},
    "no length": {"length": ""},
}


@pytest.mark.parametrize("case", EXTERNAL)
def test_external_data_may_only_lie_in_the_weights(case: str, tmp_path: Path):
    add_copy(tmp_path, "mine")
    folder = tmp_path / "mine" / "1"
    model = onnx.load(folder / FORWARD, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    for item in tensor.external_data:
        item.value = EXTERNAL[case].get(item.key, item.value)
    (folder / FORWARD).write_bytes(model.SerializeToString())
    reseal(folder)
    with pytest.raises(DataLoss, match=r"external data of '.*' lies outside the model"):
        ModelRepository(tmp_path).get("mine").forward()


def test_external_data_hidden_in_a_node_is_found(tmp_path: Path):
    add_copy(tmp_path, "mine")
    folder = tmp_path / "mine" / "1"
    model = onnx.load(folder / FORWARD, load_external_data=False)
    hidden = onnx.TensorProto(name="hidden", data_type=1, dims=[1], data_location=1)
    hidden.external_data.add(key="location", value="../../secret")
    constant = onnx.helper.make_node("Constant", [], ["c"], value=hidden)
    body = onnx.helper.make_graph([constant], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body))
    (folder / FORWARD).write_bytes(model.SerializeToString())
    reseal(folder)
    with pytest.raises(DataLoss, match="'hidden' lies outside"):
        ModelRepository(tmp_path).get("mine").forward()


def test_a_graph_or_weights_of_rubbish_are_data_loss(tmp_path: Path):
    add_copy(tmp_path, "mine")
    folder = tmp_path / "mine" / "1"
    (folder / FORWARD).write_bytes(b"\xff\xff rubbish")
    (folder / WEIGHTS).write_bytes(b"\xff" * 100)
    reseal(folder)
    stored = ModelRepository(tmp_path).get("mine")
    with pytest.raises(DataLoss, match="is not an ONNX graph"):
        stored.forward()
    with pytest.raises(DataLoss, match="is not a safetensors file"):
        stored.weights()


@pytest.mark.parametrize("name", ["model.ts", "../1/manifest.json", "manifest.json", ""])
def test_files_that_the_manifest_does_not_list_are_not_found(name: str):
    with pytest.raises(NotFound, match="has no file"):
        ModelRepository().get().file(name)


def test_weights_are_read_only_views_of_the_file():
    stored = ModelRepository().get()
    weights = stored.weights()
    assert sum(value.size for value in weights.values()) == stored.manifest.parameters
    first = weights["features.conv1.weight"]
    assert first.dtype == np.float32
    assert not first.flags.writeable
    assert not first.flags.owndata


def test_unknown_layers_are_refused_with_near_names():
    manifest = ModelRepository().get().manifest
    assert manifest.layer("features.conv1").weight == "features.conv1.weight"
    with pytest.raises(
        InvalidArgument, match=r"layer = 'conv1': must be a layer of patterns, such as .*conv1"
    ):
        manifest.layer("conv1")
    with pytest.raises(InvalidArgument, match=r"targets\[0\]\.layer = 'zzz'"):
        manifest.layer("zzz", "targets[0].layer")


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVLENS_MODELS", "/somewhere")
    assert default_root() == Path("/somewhere")
    monkeypatch.delenv("CONVLENS_MODELS")
    assert default_root().name == "models"


def test_reading_needs_neither_torch_nor_onnxruntime():
    code = (
        "import sys; from convlens_models import preprocess, repository; "
        "from convlens_models.graphs import autodiff, layers, surgery; "
        "repository.ModelRepository().get().forward(); "
        "print([name for name in ('torch', 'onnxruntime') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_embedded_model_is_small():
    files = [path for path in repository.EMBEDDED.rglob("*") if path.is_file()]
    manifest = ModelRepository().get().manifest
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert manifest.parameters <= 1_500_000
    assert len(manifest.labels) >= 40
    assert set(manifest.dream_layers) <= {layer.name for layer in manifest.layers}
