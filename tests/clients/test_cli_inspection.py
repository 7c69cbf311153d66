"""The command line's quick calls against a made-up server."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


def test_models_are_listed_and_shown(run):
    assert "patterns/2" in run("models", "list").out
    shown = run("models", "show").out
    assert "features.0" in shown
    assert "8 x 96 x 96" in shown
    assert "wide checks" in run("models", "show", "--labels").out
    assert json.loads(run("models", "show", "--json").out)["layers"][0]["kind"] == "Conv"


def test_classify_prints_a_table_or_json(run, service, photo):
    assert "75.00%" in run("classify", photo, "--top", "3").out
    assert service.sent("ClassifyRequest").top_k == 3
    (line,) = run("classify", photo, "--json").out.splitlines()
    assert json.loads(line)["predictions"] == [{"index": 2, "label": "wide checks", "probability": 0.75}]


def test_many_images_are_asked_for_in_several_calls(run, service, photo):
    assert run("classify", *[photo] * 40, "--json").out.count("\n") == 40
    assert [len(request.images) for request in service.requests] == [16, 16, 8]


@pytest.mark.parametrize(
    ("text", "mode"), [("keep", "keep"), ("short-side", "short_side"), ("128", "fit"), ("48x64", "exact")]
)
def test_resize_is_given_as_text(run, service, photo, text, mode):
    run("classify", photo, "--resize", text)
    assert service.sent("ClassifyRequest").images[0].resize.WhichOneof("mode") == mode


def test_filters_become_a_picture_or_a_tensor(run, tmp_path):
    assert run("filters", "--out", str(tmp_path / "f.png")).code == 0
    with Image.open(tmp_path / "f.png") as image:
        assert image.size == (3 * 34 - 1, 3 * 34 - 1)
    run("filters", "--out", str(tmp_path / "f.npy"))
    assert np.load(tmp_path / "f.npy").shape == (8, 3, 3, 3)


def test_activations_of_several_layers_are_summed_up(run, photo, tmp_path):
    shown = json.loads(run("activations", photo, "--layer", "a", "--layer", "b", "--json").out)
    assert shown["b"] == {"shape": [9, 700, 50], "min": 7, "mean": 7, "max": 7}
    refused = run("activations", photo, "--layer", "a", "--layer", "b", "--out", str(tmp_path / "a.png"))
    assert refused.code == 2
    assert run("activations", photo, "--layer", "a", "--out", str(tmp_path / "a.npy")).code == 0
    assert np.load(tmp_path / "a.npy").shape == (9, 700, 50)


def test_channels_are_chosen(run, service, photo, tmp_path):
    shown = json.loads(run("activations", photo, "--layer", "a", "--top", "2", "--json").out)
    assert shown["a"]["channels"] == [0, 1]
    assert run("activations", photo, "--layer", "a", "--channel", "3", "--scale", "layer").code == 0
    assert service.requests[-1].channel == 3


def test_features_are_written_with_their_names(run, service, photo, tmp_path):
    answer = run("features", photo, photo, "--layer", "a", "--out", str(tmp_path / "f.npz"))
    assert "2 vectors of 3 values" in answer.out
    with np.load(tmp_path / "f.npz") as written:
        assert written["names"].tolist() == [photo, photo]
        assert written["features"].tolist() == [[1, 1, 1], [2, 2, 2]]
    run("features", photo, "--layer", "a", "--out", str(tmp_path / "f.npy"))
    assert np.load(tmp_path / "f.npy").shape == (1, 3)
    assert (tmp_path / "f.txt").read_text() == f"{photo}\n"
    assert json.loads(run("features", photo, "--layer", "a", "--json").out)["image"] == photo
    assert run("features", photo, "--layer", "a", "--out", str(tmp_path / "f.png")).code == 2


TARGETS = {
    "predicted": ((), "class_score {\n}\n"),
    "label": (("--class", "fine"), "class_score {\n  index: 3\n}\n"),
    "index": (("--class", "0", "--log-prob"), "log_probability {\n  index: 0\n}\n"),
    "neuron": (("--neuron", "a.b:3:1:2"), 'neuron {\n  layer: "a.b"\n  channel: 3\n  y: 1\n  x: 2\n}\n'),
    "channel": (("--neuron", "scope:a:3"), 'neuron {\n  layer: "scope:a"\n  channel: 3\n}\n'),
}


@pytest.mark.parametrize(("options", "target"), TARGETS.values(), ids=TARGETS)
def test_saliency_asks_for_the_target_that_the_options_name(run, service, photo, options, target):
    assert run("saliency", photo, "--method", "guided-backprop", *options).code == 0
    (asked,) = service.sent("AttributeRequest").attributions
    assert str(asked.target) == target
    assert asked.WhichOneof("technique") == "guided_backprop"


def test_saliency_writes_map_and_value(run, photo, tmp_path):
    answer = run("saliency", photo, "--json", "--out", str(tmp_path / "s.npy"))
    assert json.loads(answer.out) == {
        "target": "wide checks",
        "class_index": 2,
        "value": 0.5,
        "shape": [3, 8, 8],
    }
    assert np.load(tmp_path / "s.npy").shape == (3, 8, 8)
    assert run("saliency", photo, "--look", "magnitude", "--out", str(tmp_path / "s.png")).code == 0


def test_saliency_says_when_there_is_nothing_to_see(run, photo):
    assert "the map is zero" in run("saliency", photo).out


def test_a_photo_is_painted(run, service, photo, tmp_path):
    assert "20 x 30" in run("stylise", photo, "--model", "m", "--out", str(tmp_path / "p.png")).out
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == (30, 20)
