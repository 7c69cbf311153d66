"""Style networks in the repository: exported, described, refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.style import random_style, random_transformer_net, style_state
from typer.testing import CliRunner

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_models.architectures.fast_style import FastStyle
from convlens_models.cli import add
from convlens_models.importing import verify
from convlens_models.importing.style_import import add_style
from convlens_models.manifest import INPUT, Manifest
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    add_style(root, style_state(), "mosaic")
    return ModelRepository(root).get("mosaic")


def old_state(network):
    """As files had it while instance norms kept statistics that nobody read."""
    state = dict(network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.InstanceNorm2d):
            state |= {f"{name}.running_mean": torch.ones(module.num_features)}
            state |= {f"{name}.running_var": torch.full((module.num_features,), 9.0)}
    return state


@pytest.mark.parametrize("size", [(16, 16), (32, 40), (33, 46), (17, 23)])
@pytest.mark.parametrize("old", [False, True])
def test_weights_of_pytorchs_examples_paint_as_there(tmp_path, size, old):
    network = random_transformer_net(width=8)
    weights = tmp_path / "candy.model"
    state = old_state(network) if old else network.state_dict()
    torch.save(state, weights, _use_new_zipfile_serialization=not old)
    added = run("fast_style", "--weights", weights, "--name", "candy", "--models", tmp_path / "models")
    assert added.exit_code == 0, added.output
    stored = ModelRepository(tmp_path / "models").get("candy")
    assert (stored.manifest.task, stored.manifest.architecture) == ("style", "transformer_net")
    images = np.random.default_rng(0).random((2, 3, *size), np.float32)
    output = stored.manifest.layer(stored.manifest.output).tensor
    (actual,) = verify.run(stored.forward(), stored.path, [output], {INPUT: images})
    expected = network.painted(torch.from_numpy(images)).numpy()
    assert (expected > 0).mean() - (expected == 1).mean() > 0.5
    assert np.abs(actual[..., : size[0], : size[1]] - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state: state.pop("res2.in1.bias"), r"'res2\.in1\.bias' of shape \[32\] is missing"),
        (lambda state: state.update(extra=torch.zeros(2)), "unexpected key 'extra'"),
        (
            lambda state: state.update({"deconv1.conv2d.bias": torch.zeros(4)}),
            r"'deconv1\.conv2d\.bias' has shape \[4\]: must be \[16\]",
        ),
        (lambda state: state.update({"in1.weight": torch.full((8,), torch.nan)}), "not finite"),
    ],
    ids=["missing", "extra", "shape", "NaN"],
)
def test_theirs_that_do_not_fit_are_refused_by_their_names(tmp_path, change, text):
    state = dict(random_transformer_net(width=8).state_dict())
    change(state)
    with pytest.raises(InvalidArgument, match=text):
        add_style(tmp_path, state, "candy")


class Exploit:
    def __reduce__(self):
        return print, ("ran",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    weights = tmp_path / "candy.pth"
    torch.save({**random_transformer_net(width=8).state_dict(), "in1.bias": Exploit()}, weights)
    refused = run("fast_style", "--weights", weights, "--name", "candy", "--models", tmp_path / "models")
    assert refused.exit_code == 2
    assert "of tensors, numbers and names alone" in refused.output
    assert "ran" not in refused.output.split()


@pytest.mark.parametrize("size", [(16, 16), (20, 44), (64, 128)])
def test_graph_is_the_module(stored, size):
    images = np.random.default_rng(0).random((2, 3, *size), np.float32)
    output = stored.manifest.layer(stored.manifest.output).tensor
    (actual,) = verify.run(stored.forward(), stored.path, [output], {INPUT: images})
    with torch.no_grad():
        expected = random_style()(torch.from_numpy(images) * 2 - 1).numpy()
    assert actual.shape == images.shape
    assert np.abs(actual - expected).max() < 1e-5


def test_the_width_is_that_of_the_weights(tmp_path):
    narrow = FastStyle(8).eval()
    manifest = add_style(tmp_path, narrow.state_dict(), "narrow")
    assert manifest.parameters == sum(p.numel() for p in narrow.parameters()) == 108_771
    stored = ModelRepository(tmp_path).get("narrow")
    images = np.random.default_rng(0).random((1, 3, 32, 40), np.float32)
    output = manifest.layer(manifest.output).tensor
    (actual,) = verify.run(stored.forward(), stored.path, [output], {INPUT: images})
    with torch.no_grad():
        expected = narrow(torch.from_numpy(images) * 2 - 1).numpy()
    assert np.abs(actual - expected).max() < 1e-5


def test_the_newest_version_is_not_added_again(tmp_path):
    versions = [add_style(tmp_path, style_state(seed), "mosaic").version for seed in (0, 0, 1, 0)]
    assert versions == [1, 1, 2, 3]


def test_the_name_of_a_classifier_is_taken(tmp_path):
    with pytest.raises(InvalidArgument, match=r"name = 'patterns': .*another name"):
        add_style(tmp_path, style_state(), "patterns")
    assert not (tmp_path / "patterns").exists()


def test_manifest_says_what_it_is(stored):
    manifest = stored.manifest
    assert (manifest.task, manifest.architecture, manifest.labels) == ("style", "fast_style", ())
    assert manifest.dynamic_size
    assert manifest.parameters == sum(p.numel() for p in random_style().parameters()) == 1_679_235
    assert manifest.multiply_adds > 10**9


def test_only_a_version_with_a_parent_says_so(tmp_path):
    add_style(tmp_path, style_state(width=4), "mosaic")
    manifest = add_style(tmp_path, style_state(1, width=4), "mosaic", parent="mosaic/1")
    files = [(tmp_path / "mosaic" / version / "manifest.json").read_text() for version in "12"]
    assert ['"parent"' in text for text in files] == [False, True]
    assert ModelRepository(tmp_path).get("mosaic").manifest.parent == manifest.parent == "mosaic/1"


def test_a_classifier_keeps_the_digest_of_manifests_without_a_task():
    manifest = ModelRepository().get().manifest
    old = {key: value for key, value in manifest.model_dump().items() if key != "task"}
    assert Manifest.model_validate(old) == manifest
    with pytest.raises(ValueError, match="its own digest"):
        Manifest.model_validate({**old, "task": "style"})


def test_jobs_cannot_differentiate_it(stored):
    with pytest.raises(FailedPrecondition, match="fast_style"):
        load_network(stored)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state: state.pop("paint.1.bias"), r"'paint\.1\.bias' of shape \[3\] is missing"),
        (lambda state: state.update(extra=torch.zeros(2)), "unexpected key 'extra'"),
        (lambda state: state.update({"paint.1.bias": torch.zeros(4)}), r"has shape \[4\]: must be \[3\]"),
        (lambda state: state.update({"paint.1.bias": torch.full((3,), torch.nan)}), "not finite"),
    ],
    ids=["missing", "extra", "shape", "NaN"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, text):
    state = style_state()
    change(state)
    with pytest.raises(InvalidArgument, match=text):
        add_style(tmp_path, state, "mosaic")
    assert ModelRepository(tmp_path).versions("mosaic") == []


def run(*arguments):
    import typer

    app = typer.Typer()
    app.command()(add)
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_adds_one(tmp_path):
    weights = tmp_path / "w.safetensors"
    save_file(style_state(), weights)
    added = run("fast_style", "--weights", weights, "--name", "starry", "--models", tmp_path / "models")
    assert added.exit_code == 0, added.output
    assert "added starry/1: fast_style" in added.output
    assert "a style network" in added.output
    assert ModelRepository(tmp_path / "models").get("starry").manifest.task == "style"
    refused = run("fast_style", "--weights", weights, "--torchscript", "--models", tmp_path / "models")
    assert refused.exit_code == 2
    assert "--torchscript cannot go with fast_style" in refused.output
