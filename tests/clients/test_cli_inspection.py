"""The command line's quick calls against a made-up server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import fake_service

from convlens import errors, wire
from convlens.text import printable
from convlens.v1 import target_pb2
from convlens_client import Neuron
from convlens_client.cli.targets import parse_neuron


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


@pytest.mark.parametrize("label", ["\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b1m", "[unused]", "[/nope]"])
def test_what_others_have_named_is_shown_and_not_obeyed(run, service, photo, label, tmp_path, monkeypatch):
    shown = target_pb2.Prediction(index=2, label=label, probability=0.75)
    monkeypatch.setattr(fake_service, "PREDICTION", shown)
    named = Path(photo).rename(tmp_path / f"{label.replace('/', '')}.png")
    for options in ([], ["--json"]):
        answer = run("classify", named, named, *options)
        assert answer.code == 0
        assert all(line.isprintable() for line in answer.out.splitlines())
        assert printable(label) in answer.out or json.dumps(label)[1:-1] in answer.out
    refused = run("classify", tmp_path / label)
    assert refused.code == 2
    assert all(line.isprintable() for line in refused.err.splitlines())
    assert printable(label) in refused.err


def test_many_images_are_asked_for_in_several_calls(run, service, photo):
    assert run("classify", *[photo] * 40, "--json").out.count("\n") == 40
    assert [len(request.images) for request in service.requests] == [16, 16, 8]


@pytest.fixture
def folder(tmp_path, photo):
    """Twenty photos, one of which the server will not take, one that is none, and a note."""
    for number in range(20):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{number:02}.png").write_bytes(Path(photo).read_bytes())
    (tmp_path / "photos/03.png").write_bytes(b"no picture")
    (tmp_path / "photos/17.bmp").write_bytes(b"BM, but no picture")
    (tmp_path / "photos/notes.txt").write_text("no photo")
    return tmp_path / "photos"


@pytest.fixture
def choosy(service):
    """The service refuses what is no PNG, by its place."""
    note = service._note

    def refuse(request, context):
        for place, image in enumerate(getattr(request, "images", ())):
            if not image.encoded.startswith(b"\x89PNG"):
                service.failures = [errors.InvalidArgument.of(f"images[{place}]", "10 bytes", "a picture")]
                break
        note(request, context)

    service._note = refuse


def test_a_folder_is_classified_without_what_is_no_picture(run, service, choosy, folder):
    answer = run("classify", folder, "--json")
    assert answer.code == 1
    named = [Path(json.loads(line)["image"]).name for line in answer.out.splitlines()]
    assert named == [f"{number:02}.png" for number in range(20) if number != 3]
    for name in ("03.png: images[3] = '10 bytes': must be a picture", "17.bmp", "skipped 2 of 21 images"):
        assert name in answer.err


def test_strict_stops_at_the_first_and_names_it(run, service, choosy, folder):
    answer = run("classify", folder, "--json", "--strict")
    assert (answer.code, answer.out.count("\n")) == (2, 3)
    assert str(folder / "03.png") in answer.err


def test_pictures_of_their_own_sizes_are_asked_for_one_by_one(run, service, photo):
    run("classify", photo, photo, "--resize", "keep")
    assert [len(request.images) for request in service.requests] == [1, 1]


def test_a_frame_of_an_animation_is_chosen(run, service, tmp_path):
    frames = [Image.new("RGB", (9, 8), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    for option, colour in (((), (255, 0, 0)), (("--frame", "1"), (0, 255, 0))):
        assert run("classify", tmp_path / "a.gif", *option).code == 0
        sent = wire.decode_image(service.requests[-1].images[0].encoded)
        assert tuple(sent[0, 0]) == colour
    refused = run("classify", tmp_path / "a.gif", "--frame", "2")
    assert (refused.code, "frame = 2: must be between 0 and 1" in refused.err) == (2, True)


NEURONS = {
    "a:3:1": "LAYER:CHANNEL, numbers from 0: X is missing",
    "a": "the channel is missing",
    "a:": "the channel is missing",
    ":3": "the channel is missing",
}


@pytest.mark.parametrize("text", NEURONS)
def test_a_neuron_says_what_is_missing(run, photo, text):
    for command in (("saliency", photo, "--neuron"), ("visualise", "--unit")):
        answer = run(*command, text)
        assert (answer.code, NEURONS[text] in answer.err) == (2, True), answer


def test_colons_of_a_layers_name_are_none_of_the_neuron():
    assert parse_neuron("x:0:5", ["x:0"]) == Neuron("x:0", 5)
    assert parse_neuron("x:0:5:1:2", ["x:0"]) == Neuron("x:0", 5, 1, 2)
    assert parse_neuron("x:5:1:2", ["x"]) == Neuron("x", 5, 1, 2)


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
