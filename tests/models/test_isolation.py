"""Importing other people's files: bounded in memory and time, and refused by name."""

from __future__ import annotations

import os
import time

import onnx
import pytest
from onnx import TensorProto, helper

from convlens.errors import InvalidArgument
from convlens_models.importing import canonicalise, publish
from convlens_models.importing.isolation import isolated
from convlens_models.importing.publish import check_name

OPSET = [helper.make_opsetid("", 18)]


def test_the_child_answers_with_the_result_or_with_its_error():
    assert isolated("file", 4096, 60, divmod, 7, 2) == (3, 1)
    with pytest.raises(InvalidArgument, match="name = 'A'") as caught:
        isolated("file", 4096, 60, check_name, "A")
    assert caught.value.field == "name"


@pytest.mark.parametrize(
    ("megabytes", "seconds", "function", "argument", "message"),
    [
        (512, 60, bytearray, 1 << 30, "file: importing it takes more than 512 MiB"),
        (4096, 1, time.sleep, 60, "file: importing it takes more than 1 s"),
        (4096, 60, os._exit, 3, "file: importing it ended with exit code 3"),
    ],
    ids=["memory", "time", "death"],
)
def test_what_takes_too_much_ends_alone(megabytes, seconds, function, argument, message):
    with pytest.raises(InvalidArgument, match=message):
        isolated("file", megabytes, seconds, function, argument)


def test_what_a_killed_importer_left_goes_after_a_day(tmp_path):
    for name, age in ((".adding-old", publish.LEFT_AFTER + 60), (".adding-new", 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with publish.staging(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {".adding-new", folder.name}


def laughs(levels: int, each: int) -> onnx.ModelProto:
    """Each function calls the one before so many times."""
    functions = []
    for level in range(levels):
        kind, domain = ("Identity", "") if level == 0 else (f"f{level - 1}", "local")
        nodes = [helper.make_node(kind, ["x"], [f"y{n}"], domain=domain) for n in range(each)]
        nodes.append(helper.make_node("Identity", ["y0"], ["y"]))
        opsets = [*OPSET, helper.make_opsetid("local", 1)]
        functions.append(helper.make_function("local", f"f{level}", ["x"], ["y"], nodes, opsets))
    return of([helper.make_node(f"f{levels - 1}", ["x"], ["y"], domain="local")], functions=functions)


def of(nodes, axes: int = 4, functions=()) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1] * axes) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", value[:1], value[1:])
    opsets = [*OPSET, helper.make_opsetid("local", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets)


def within_itself() -> onnx.ModelProto:
    model = laughs(2, 1)
    model.functions[0].node[0].domain, model.functions[0].node[0].op_type = "local", "f1"
    return model


HOSTILE = {
    "functions within functions": (
        lambda: laughs(12, 10),
        "1.11e[+]12 nodes, once its functions",
    ),
    "deep": (lambda: laughs(150, 1), "nested at most 100 times"),
    "a function within itself": (within_itself, "nested at most 100 times"),
    "axes": (lambda: of([helper.make_node("Identity", ["x"], ["y"])], 10_000), "model.x = '10000 axes'"),
    "names": (
        lambda: of([helper.make_node("Identity", ["x"], ["y"], "n" * 5_000_000)]),
        "at most 1024",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_files_that_would_take_all_memory_are_refused_before_they_do(case, tmp_path):
    make, message = HOSTILE[case]
    onnx.save(make(), tmp_path / "hostile.onnx")
    with pytest.raises(InvalidArgument, match=message):
        canonicalise.read(tmp_path / "hostile.onnx")


def test_functions_that_are_few_once_written_out_are_taken(tmp_path):
    onnx.save(laughs(3, 2), tmp_path / "few.onnx")
    assert len(canonicalise.read(tmp_path / "few.onnx").graph.node) > 8


def test_a_name_ends_where_it_ends():
    with pytest.raises(InvalidArgument, match="name = "):
        check_name("a\n")
