"""`add_architecture`: what is accepted, what is refused and how it is said, and what is stored then."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.networks import random_module, save_weights

from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2
from convlens_models.architectures import ARCHITECTURES
from convlens_models.graphs import surgery
from convlens_models.importing import verify
from convlens_models.importing.importer import add_architecture, load_module
from convlens_models.manifest import INPUT
from convlens_models.preprocess import to_input
from convlens_models.repository import MANIFEST, ModelRepository


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(random_module("patterns", 3), tmp_path_factory.mktemp("w") / "w.safetensors")


def test_the_real_squeezenet_knows_the_photos(data: Path, tmp_path: Path):
    models = data / "models"
    manifest = add_architecture(
        tmp_path, "squeezenet1_0", models / "squeezenet1_0.safetensors", models / "imagenet_labels.tsv"
    )
    stored = ModelRepository(tmp_path).get("squeezenet1_0")
    assert manifest.labels[:2] == ("tench", "goldfish")
    assert (manifest.parameters, manifest.multiply_adds) == (1_248_424, 818_924_576)
    photos = sorted((data / "photos").glob("*.jpg"))[::20]
    images = [to_input(image_pb2.Image(encoded=photo.read_bytes()), manifest) for photo in photos]
    part = surgery.cut(stored.forward(), ["probabilities"])
    (actual,) = verify.run(part, stored.path, ["probabilities"], {INPUT: np.stack(images)})
    classes = [int(photo.name[:4]) for photo in photos]
    right = sum(int(row.argmax()) == index for row, index in zip(actual, classes, strict=True))
    assert right >= 0.6 * len(photos)
    tench = to_input(image_pb2.Image(encoded=photos[0].read_bytes()), manifest)
    (row,) = verify.run(part, stored.path, ["probabilities"], {INPUT: tench[None]})
    assert manifest.labels[row[0].argmax()] == "tench"


def test_versions_count_up_and_share_nothing(tmp_path: Path, weights: Path):
    first = add_architecture(tmp_path, "patterns", weights, name="mine")
    second = add_architecture(tmp_path, "patterns", weights, name="mine", mean=(0, 0, 0))
    assert (first.version, second.version) == (1, 2)
    assert first.digest != second.digest
    assert add_architecture(tmp_path, "patterns", weights, name="mine").digest == first.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_a_version_of_the_embedded_name_comes_after_the_embedded_one(tmp_path: Path, weights: Path):
    assert add_architecture(tmp_path, "patterns", weights).version == 2
    assert ModelRepository(tmp_path).get().manifest.labels == ("class 0", "class 1", "class 2")


def test_adding_at_once_loses_nothing(tmp_path: Path, weights: Path):
    def add(_: int) -> int:
        return add_architecture(tmp_path, "patterns", weights, name="raced").version

    with ThreadPoolExecutor(4) as pool:
        versions = sorted(pool.map(add, range(6)))
    assert versions == [1, 2, 3, 4, 5, 6]
    assert sorted(ModelRepository(tmp_path).versions("raced")) == versions
    assert [path.name for path in tmp_path.iterdir()] == ["raced"]


def test_weights_as_pth_and_as_checkpoint_and_as_half_are_the_same(tmp_path: Path, weights: Path):
    state = load_file(weights)
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.pt")
    digests = {
        add_architecture(tmp_path / "m", "patterns", path, name="x").digest
        for path in (weights, tmp_path / "a.pth", tmp_path / "b.pt")
    }
    assert len(digests) == 1
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "half.safetensors")
    add_architecture(tmp_path / "m", "patterns", tmp_path / "half.safetensors", name="half")
    stored = ModelRepository(tmp_path / "m").get("half").weights()
    assert {value.dtype.name for value in stored.values()} == {"float32"}


class Attack:
    def __reduce__(self):
        return (print, ("this must not run",))


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


STATES = {
    "missing key": (
        lambda state: without(state, "features.conv2.bias"),
        r"key 'features.conv2.bias' of shape \[48\] is missing",
    ),
    "missing head": (
        lambda state: without(state, "classifier.bias"),
        r"key 'classifier.bias' of shape \[classes\] is missing",
    ),
    "unexpected key": (
        lambda state: {**state, "extra.weight": torch.zeros(2)},
        r"unexpected key 'extra.weight' of shape \[2\]",
    ),
    "misshaped key": (
        lambda state: {**state, "features.conv2.weight": torch.zeros(48, 3, 3, 3)},
        r"key 'features.conv2.weight' has shape \[48, 3, 3, 3\]: must be \[48, 40, 3, 3\]",
    ),
    "not finite": (
        lambda state: {**state, "classifier.bias": torch.full((3,), torch.nan)},
        "not finite",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_weights_that_do_not_fit_are_refused_by_name(case: str, tmp_path: Path, weights: Path):
    change, message = STATES[case]
    save_file(change(load_file(weights)), tmp_path / "w.safetensors")
    with pytest.raises(InvalidArgument, match=message):
        add_architecture(tmp_path / "m", "patterns", tmp_path / "w.safetensors")
    assert not list((tmp_path / "m").glob("*/*")) if (tmp_path / "m").exists() else True


def files_that_are_no_weights(folder: Path, weights: Path) -> dict[str, Path]:
    torch.save(Attack(), folder / "attack.pth")
    torch.save([1, 2], folder / "list.pth")
    (folder / "text.pth").write_text("hello")
    (folder / "cut.safetensors").write_bytes(weights.read_bytes()[:1000])
    return {path.name: path for path in folder.iterdir()} | {"absent": folder / "absent.safetensors"}


@pytest.mark.parametrize("name", ["attack.pth", "list.pth", "text.pth", "cut.safetensors", "absent"])
def test_files_that_are_no_weights_are_refused(name: str, tmp_path: Path, weights: Path, capsys):
    path = files_that_are_no_weights(tmp_path, weights)[name]
    with pytest.raises(InvalidArgument, match=r"weights = '.*: must be"):
        add_architecture(tmp_path / "m", "patterns", path)
    assert "must not run" not in capsys.readouterr().out


def test_auxiliary_heads_are_checked_and_then_left_behind():
    plan = ARCHITECTURES["googlenet"]
    whole = random_module("googlenet", auxiliary=True).state_dict()
    kept = set(load_module(plan, whole).state_dict())
    assert kept == {key for key in whole if not key.startswith("aux")}
    assert set(load_module(plan, {key: whole[key] for key in kept}).state_dict()) == kept
    with pytest.raises(InvalidArgument, match=r"key 'aux2\.fc1\.bias' of shape \[1024\] is missing"):
        load_module(plan, without(whole, "aux2.fc1.bias"))
    old = {key: value for key, value in whole.items() if not key.endswith("num_batches_tracked")}
    assert set(load_module(plan, old).state_dict()) == kept


LABELS = {
    "a line each": "one\ntwo\nthree\n",
    "tsv": "0\tn1\tone\n1\tn2\ttwo\n2\tn3\tthree\n",
    "with WordNet's": "0\tn00000001\tone\n1\t-\ttwo\nn00000003\tthree\n",
}
IDS = {"with WordNet's": ("n00000001", "", "n00000003")}


@pytest.mark.parametrize("case", LABELS)
def test_labels(case: str, tmp_path: Path, weights: Path):
    (tmp_path / "labels").write_text(LABELS[case])
    manifest = add_architecture(tmp_path / "m", "patterns", weights, tmp_path / "labels")
    assert manifest.labels == ("one", "two", "three")
    assert manifest.class_ids == IDS.get(case, ())
    known = ModelRepository(tmp_path / "m").get("patterns").manifest
    assert known == manifest


def test_the_digest_is_that_of_before_where_no_identifiers_are_known(tmp_path: Path, weights: Path):
    manifest = add_architecture(tmp_path, "patterns", weights)
    named = manifest.model_copy(update={"class_ids": ("n00000001", "", "")})
    content = manifest.model_dump(mode="json")
    for name in (
        "name",
        "version",
        "batching",
        "digest",
        "task",
        "class_ids",
        "parent",
        "proof",
        "size_multiple",
    ):
        del content[name]
    for layer in content["layers"]:
        del layer["any_size"]
    assert manifest.digest == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert named.sealed().digest != manifest.digest


ARGUMENTS = {
    "architecture": ({"architecture": "vgg11"}, r"architecture = 'vgg11': must be one of alexnet, .*vgg19"),
    "name": ({"name": "../x"}, "name = '../x': must be 1 to 64"),
    "deviation": ({"std": (1, 0, 1)}, r"std = \(1, 0, 1\): must be three positive"),
    "mean": ({"mean": (float("nan"), 0, 0)}, "mean = .*finite"),
    "labels": ({"labels": Path(__file__)}, "labels = .*: must be one for each of the network's 3 classes"),
    "no labels": ({"labels": Path("absent")}, "labels = 'absent': must be a readable"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_are_refused(case: str, tmp_path: Path, weights: Path):
    options, message = ARGUMENTS[case]
    with pytest.raises(InvalidArgument, match=message):
        add_architecture(**{"root": tmp_path, "architecture": "patterns", "weights": weights, **options})
    assert not list(tmp_path.iterdir())


def test_normalisation_defaults():
    defaults = {name: plan.mean for name, plan in ARCHITECTURES.items()}
    assert defaults.pop("googlenet") == defaults.pop("inception_v3") == (0.5, 0.5, 0.5)
    assert defaults.pop("patterns") == (0.5, 0.5, 0.5)
    assert set(defaults.values()) == {(0.485, 0.456, 0.406)}


def test_the_manifest_is_readable_json_with_digests(tmp_path: Path, weights: Path):
    add_architecture(tmp_path, "patterns", weights, name="x")
    folder = tmp_path / "x" / "1"
    content = json.loads((folder / MANIFEST).read_text())
    assert set(content["files"]) == {"forward.onnx", "weights.safetensors"}
    assert {path.name for path in folder.iterdir()} == {*content["files"], MANIFEST}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


def test_grey_photos_have_a_size(tmp_path: Path, weights: Path):
    manifest = add_architecture(tmp_path, "patterns", weights, name="x")
    assert (manifest.min_size, manifest.dynamic_size) == (15, True)
    path = tmp_path / "grey.png"
    Image.new("L", (130, 100), 128).save(path)
    assert to_input(image_pb2.Image(encoded=path.read_bytes()), manifest).shape == (3, 96, 96)
