"""`convlens models add`, as the command that a person types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import typer
from support.foreign_onnx import classifier, node, save, weight
from support.networks import random_module, save_weights
from typer.testing import CliRunner

from convlens_models.cli import add
from convlens_models.repository import ModelRepository

app = typer.Typer()
app.command("add")(add)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_weights(random_module("patterns", 3), tmp_path / "w.safetensors")


def run(folder: Path, *arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments), "--models", str(folder / "models")])


def test_an_architecture_with_all_options(tmp_path: Path, weights: Path):
    (tmp_path / "labels").write_text("a\nb\nc\n")
    options = ("--name", "mine", "--labels", tmp_path / "labels", "--torchscript")
    result = run(
        tmp_path, "patterns", "--weights", weights, *options, "--mean", "0,0.5,1", "--std", "1, 1, 2"
    )
    assert result.exit_code == 0, result.output
    assert "added mine/1: patterns for torchscript, 3 classes, 23 layers" in result.output
    manifest = ModelRepository(tmp_path / "models").get("mine").manifest
    assert (manifest.mean, manifest.std) == ((0, 0.5, 1), (1, 1, 2))
    assert (manifest.engine, manifest.labels) == ("torchscript", ("a", "b", "c"))


def test_what_was_done_to_a_file_is_told(tmp_path: Path):
    path = save(grey_and_last(), tmp_path)
    result = run(
        tmp_path, "--onnx", path, "--name", "mine", "--layout", "nhwc", "--mean", "0.5", "--std", "0.25"
    )
    assert result.exit_code == 0, result.output
    manifest = ModelRepository(tmp_path / "models").get("mine").manifest
    assert (manifest.mean, manifest.std) == ((0.5,) * 3, (0.25,) * 3)
    told = " ".join(result.output.split())
    assert len(manifest.notes) == 2
    assert all(note in told for note in manifest.notes)


def grey_and_last() -> onnx.ModelProto:
    model = classifier([node("MaxPool", ["relu"], "middle", kernel_shape=[2, 2])], size=("N", 32, 32, 1))
    first = model.graph.node[0]
    first.input[0] = "turned"
    model.graph.node.insert(0, node("Transpose", ["data"], "turned", perm=[0, 3, 1, 2]))
    model.graph.initializer[0].CopyFrom(weight("conv.weight", 8, 1, 3, 3))
    return model


def test_an_onnx_file_with_all_options(tmp_path: Path):
    path = save(classifier(size=("N", 3, "H", "W")), tmp_path)
    options = (
        "--name",
        "mine",
        "--input-range",
        "0..255",
        "--bgr",
        "--input-size",
        "40",
        "--mean",
        "51,102,0",
    )
    result = run(tmp_path, "--onnx", path, *options)
    assert result.exit_code == 0, result.output
    manifest = ModelRepository(tmp_path / "models").get("mine").manifest
    assert manifest.input_size == 40
    assert manifest.mean == pytest.approx((0.2, 0.4, 0))
    assert manifest.std == pytest.approx((1 / 255,) * 3)


def test_a_folder_that_cannot_be_one_is_one_line(tmp_path: Path, weights: Path):
    (tmp_path / "models").write_text("a file")
    for arguments in (("patterns", "--weights", weights), ("--onnx", weights, "--name", "x")):
        result = run(tmp_path, *arguments)
        assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
        assert result.output.startswith("Error: ")


MISTAKES = {
    "nothing": ((), "give ARCH and --weights FILE, --onnx FILE and --name NAME, or --torch MODULE:FACTORY"),
    "no weights": (("patterns",), "give ARCH and --weights FILE"),
    "unknown architecture": (("vgg11", "--weights", "WEIGHTS"), "architecture = 'vgg11': must be one of"),
    "onnx without a name": (("--onnx", "x.onnx"), "--onnx needs --name NAME"),
    "both": (("patterns", "--onnx", "x.onnx", "--name", "x"), "ARCH cannot go with --onnx"),
    "bgr alone": (("patterns", "--weights", "WEIGHTS", "--bgr"), "--bgr needs --onnx"),
    "two numbers": (
        ("patterns", "--weights", "WEIGHTS", "--mean", "1,2"),
        "--mean = '1,2': must be three numbers",
    ),
    "absent file": (
        ("patterns", "--weights", "absent.pth"),
        "weights = 'absent.pth': must be a readable file",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_with_one_line_and_status_2(case: str, tmp_path: Path, weights: Path):
    arguments, message = MISTAKES[case]
    result = run(tmp_path, *(weights if argument == "WEIGHTS" else argument for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "models").exists()


def test_the_command_loads_without_torch():
    code = "import sys, convlens_models.cli; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
