"""Files of more than 2 GB, which no message can hold as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support.foreign_onnx import classifier, node, output, weight
from support.served import served

from convlens_models.graphs import surgery
from convlens_models.importing import verify
from convlens_models.importing.onnx_import import add_onnx

SIDE = 14_000
"""Rows and columns of each of three matrices of 0.8 GB."""
MEMORY = 16 << 30


def wide(folder: Path, side: int, matrices: int) -> Path:
    """A classifier with large matrices of zeros, which take no room on the disk."""
    model = classifier(end="", size=("N", 3, 32, 32))
    names = [f"large{i}" for i in range(matrices)]
    chain = [
        node("MatMul", ["flat", "into"], "h"),
        *(node("MatMul", ["h", name], f"h{name}") for name in names),
    ]
    sums = [
        node("Sum", ["h", *(f"h{name}" for name in names)], "joined"),
        node("MatMul", ["joined", "out"], "end"),
    ]
    model.graph.node.extend([*chain, *sums])
    model.graph.initializer.extend([weight("into", 8, side), weight("out", side, 5)])
    model.graph.output[0].CopyFrom(output("end", 2))
    length = side * side * 4
    with (folder / "large.bin").open("wb") as file:
        file.truncate(length * matrices)
    for place, name in enumerate(names):
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=(side, side))
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": "large.bin", "offset": place * length, "length": length}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)
    onnx.save(model, folder / "foreign.onnx")
    return folder / "foreign.onnx"


def imported(folder: Path, side: int, matrices: int) -> None:
    path = wide(folder, side, matrices)
    manifest = add_onnx(folder / "m", path, "x", mean=(0, 0, 0), std=(1, 1, 1))
    assert manifest.parameters > matrices * side * side
    images = verify.noise(1, 32)
    flat, scores = served(folder / "m", ["flat", "end"], images)
    into, out = (
        onnx.numpy_helper.to_array(weight(*shape)) for shape in (("into", 8, side), ("out", side, 5))
    )
    np.testing.assert_allclose(scores, flat @ into @ out, rtol=1e-3, atol=1e-3 * np.abs(scores).max())


def test_weights_in_another_file(tmp_path: Path):
    imported(tmp_path, 100, 2)


@pytest.mark.slow
@pytest.mark.skipif(
    os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < MEMORY, reason="takes 10 GB of memory"
)
def test_more_than_a_message_holds(tmp_path: Path):
    assert 3 * SIDE**2 * 4 > 1 << 31
    imported(tmp_path, SIDE, 3)


def test_shapes_are_inferred_without_the_numbers_of_large_tensors(tmp_path: Path):
    path = wide(tmp_path, 200, 1)
    model = onnx.load(path)
    inferred = surgery.inferred(model)
    assert surgery.shapes(inferred)["hlarge0"] == (0, 200)
    assert inferred.ByteSize() < 20_000 < model.ByteSize()
