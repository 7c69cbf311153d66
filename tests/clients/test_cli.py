"""The command line against a made-up server: what it asks, what it writes, how it fails."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from support.fake_service import DREAM

from convlens import errors, wire
from convlens_client import cli
from convlens_client.cli import plugins


@pytest.fixture
def photo(tmp_path, pixels):
    path = tmp_path / "photo.png"
    path.write_bytes(wire.encode_image(pixels))
    return str(path)


@pytest.fixture
def run(address, monkeypatch, capsys):
    """Runs a command line; returns exit code, stdout and stderr."""
    monkeypatch.setenv("CONVLENS_SERVER", address)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        return types.SimpleNamespace(code=caught.value.code, **capsys.readouterr()._asdict())

    return run


def sent(service, kind):
    """The only request of a kind."""
    (request,) = (request for request in service.requests if type(request).__name__ == kind)
    return request


def test_models_are_listed_and_shown(run):
    assert "patterns/2" in run("models", "list").out
    shown = run("models", "show").out
    assert "features.0" in shown
    assert "8 x 96 x 96" in shown
    assert "wide checks" in run("models", "show", "--labels").out
    assert json.loads(run("models", "show", "--json").out)["layers"][0]["kind"] == "Conv"


def test_classify_prints_a_table_or_json(run, service, photo):
    assert "75.00%" in run("classify", photo, "--top", "3").out
    assert sent(service, "ClassifyRequest").top_k == 3
    (line,) = run("classify", photo, "--json").out.splitlines()
    assert json.loads(line)["predictions"] == [{"index": 2, "label": "wide checks", "probability": 0.75}]


def test_many_images_are_asked_for_in_several_calls(run, service, photo):
    assert run("classify", *[photo] * 40, "--json").out.count("\n") == 40
    assert [len(request.images) for request in service.requests] == [16, 16, 8]


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
    (asked,) = sent(service, "AttributeRequest").attributions
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


def test_an_attack_prints_its_certificate(run, service, photo, tmp_path):
    answer = run("attack", photo, "--eps", "4/255", "--target", "dots", "--out", str(tmp_path / "t.png"))
    assert "largest change 25.5/255" in answer.out
    request = sent(service, "AttackRequest")
    assert request.targeted.index == 1
    assert request.fgsm.epsilon == pytest.approx(4 / 255)
    with Image.open(tmp_path / "t.png") as image:
        assert image.width > 3 * 288
    run("attack", photo, "--show", "adversarial", "--out", str(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (8, 8)
    assert json.loads(run("attack", photo, "--json").out)["certificate"]["queries"] == 2


def test_methods_of_attack_have_their_options(run, service, photo, tmp_path):
    options = ["--method", "pgd", "--norm", "l2", "--eps", "0.5", "--restarts", "2", "--step-size", "1/8"]
    assert run("attack", photo, *options, "--seed", "3", "--out", str(tmp_path / "t.png")).code == 0
    pgd = sent(service, "AttackRequest").pgd
    assert (pgd.norm, pgd.epsilon, pgd.restarts, pgd.step_size, pgd.seed) == (2, 0.5, 2, 0.125, 3)
    assert run("attack", photo, "--steps", "3").code == 2


def test_robustness_prints_a_curve_and_draws_it(run, service, tmp_path, photo):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("0002_b.png", "0001_a.png"):
        (folder / name).write_bytes(Path(photo).read_bytes())
    (folder / "notes.txt").write_text("no photo")
    answer = run("robustness", str(folder), "--labels-from-names", "--out", str(tmp_path / "c.png"))
    assert answer.code == 0
    assert "survives full range" in answer.out
    assert list(sent(service, "MeasureRobustnessRequest").labels) == [1, 2]
    with Image.open(tmp_path / "c.png") as image:
        assert image.size == (640, 360)
    service.requests.clear()
    labels = tmp_path / "labels.tsv"
    labels.write_text("0001_a.png\tdots\n0002_b.png\t3\n")
    options = ["--labels", str(labels), "--method", "fgsm", "--eps", "0", "--eps", "0.5/255", "--json"]
    assert len(json.loads(run("robustness", str(folder), *options).out)["points"]) == 3
    request = sent(service, "MeasureRobustnessRequest")
    assert list(request.labels) == [1, 3]
    assert list(request.epsilons) == pytest.approx([0, 0.5 / 255])


def test_robustness_needs_a_label_for_each_photo(run, tmp_path, photo):
    labels = tmp_path / "labels.tsv"
    labels.write_text("other.png\t1\n")
    for options, text in (
        ((), "one of the two"),
        (("--labels-from-names",), "begins with the class index"),
        (("--labels", str(labels)), "a line for photo.png"),
        (("--labels", str(tmp_path / "none.tsv")), "readable"),
    ):
        answer = run("robustness", photo, *options)
        assert answer.code == 2
        assert text in answer.err
    (tmp_path / "empty").mkdir()
    assert "there are none" in run("robustness", str(tmp_path / "empty"), "--labels-from-names").err


def test_features_are_written_with_their_names(run, service, photo, tmp_path):
    answer = run("features", photo, photo, "--layer", "a", "--out", str(tmp_path / "f.npz"))
    assert "2 vectors of 3 values" in answer.out
    with np.load(tmp_path / "f.npz") as found:
        assert found["names"].tolist() == [photo, photo]
        assert found["features"].tolist() == [[1, 1, 1], [2, 2, 2]]
    run("features", photo, "--layer", "a", "--out", str(tmp_path / "f.npy"))
    assert np.load(tmp_path / "f.npy").shape == (1, 3)
    assert (tmp_path / "f.txt").read_text() == f"{photo}\n"
    assert json.loads(run("features", photo, "--layer", "a", "--json").out)["image"] == photo
    assert run("features", photo, "--layer", "a", "--out", str(tmp_path / "f.png")).code == 2


def test_channels_are_chosen(run, service, photo, tmp_path):
    shown = json.loads(run("activations", photo, "--layer", "a", "--top", "2", "--json").out)
    assert shown["a"]["channels"] == [0, 1]
    assert run("activations", photo, "--layer", "a", "--channel", "3", "--scale", "layer").code == 0
    assert service.requests[-1].channel == 3


def test_a_photo_is_painted(run, service, photo, tmp_path):
    assert "20 x 30" in run("stylise", photo, "--model", "m", "--out", str(tmp_path / "p.png")).out
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == (30, 20)


@pytest.mark.parametrize(
    ("text", "mode"), [("keep", "keep"), ("short-side", "short_side"), ("128", "fit"), ("48x64", "exact")]
)
def test_resize_is_given_as_text(run, service, photo, text, mode):
    run("classify", photo, "--resize", text)
    assert sent(service, "ClassifyRequest").images[0].resize.WhichOneof("mode") == mode


def test_a_dream_is_followed_and_saved(run, service, photo, tmp_path):
    options = ["--layer", "a", "--layer", "b", "--steps", "3", "--seed", "7", "--size", "64"]
    assert run("dream", photo, *options, "--out", str(tmp_path / "d.npy")).code == 0
    request = sent(service, "SubmitJobRequest")
    assert list(request.deepdream.layers) == ["a", "b"]
    assert (request.deepdream.steps, request.seed) == (3, 7)
    assert request.deepdream.image.resize.fit.max_side == 64
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), DREAM)


def test_a_dream_of_channels_and_a_guide(run, service, photo):
    options = ["--layer", "a", "--channel", "3", "--channel", "5", "--guide", photo, "--tile", "256"]
    assert run("dream", photo, *options, "--laplacian", "4", "--no-wait").code == 0
    request = sent(service, "SubmitJobRequest").deepdream
    assert (list(request.channels), request.tile, request.laplacian) == ([3, 5], 256, 4)
    assert request.guide.encoded == request.image.encoded
    assert request.guide.resize.HasField("keep")


def test_a_dream_of_several_frames_is_a_video_or_its_last_frame(run, service, photo, tmp_path):
    service.artifacts["zoom.webp"] = np.frombuffer(b"bytes of a video", np.uint8)
    options = ["--frames", "3", "--zoom", "1.1", "--frame-rate", "8"]
    assert run("dream", photo, *options, "--out", str(tmp_path / "d.webp")).code == 0
    request = sent(service, "SubmitJobRequest").deepdream
    assert (request.frames, request.zoom, request.frame_rate) == (3, pytest.approx(1.1), 8)
    assert (tmp_path / "d.webp").read_bytes() == b"bytes of a video"
    assert run("dream", photo, *options, "--out", str(tmp_path / "d.png")).code == 0
    with Image.open(tmp_path / "d.png") as image:
        assert image.size == (600, 600)


def test_units_and_classes_are_visualised(run, service, tmp_path):
    options = ["--unit", "a:7", "--unit", "a:7:2:3", "--class", "wide checks", "--pixels", "--steps", "9"]
    assert run("visualise", *options, "--out", str(tmp_path / "u.png")).code == 0
    request = sent(service, "SubmitJobRequest").feature_visualisation
    targets = [item.terms[0].target for item in request.objectives]
    assert [target.WhichOneof("target") for target in targets] == ["channel", "neuron", "class_score"]
    assert (targets[0].channel.layer, targets[0].channel.channel) == ("a", 7)
    assert (request.steps, request.parametrisation) == (9, 2)
    assert (tmp_path / "u.png").exists()


def test_units_are_shown_beside_what_excites_them_in_a_collection(run, service, tmp_path):
    """Two units, three pictures of each: six crops, and the unit's name below what was made for it."""
    service.artifacts = {
        "images": np.full((2, 3, 30, 30), 0.25, np.float32),
        "examples": np.full((6, 3, 20, 20), 0.75, np.float32),
    }
    options = ["--unit", "a:7", "--class", "wide checks", "--collection", "mine", "--examples", "3"]
    assert run("visualise", *options, "--out", str(tmp_path / "u.png")).code == 0
    request = sent(service, "SubmitJobRequest").feature_visualisation
    assert (request.collection, request.examples) == ("mine", 3)
    shown = np.asarray(Image.open(tmp_path / "u.png"))[..., 0]
    areas = [int((shown == round(255 * value)).sum()) for value in (0.25, 0.75)]
    assert areas[0] >= 2 * 192**2 * 0.99
    assert areas[1] > 2 * 3 * 60**2
    assert run("visualise", *options, "--out", str(tmp_path / "u.npy")).code == 0
    assert np.load(tmp_path / "u.npy").shape == (2, 3, 30, 30)


def test_a_texture_is_made(run, service, photo, tmp_path):
    options = ["--height", "96", "--width", "80", "--layer", "a=2", "--layer", "b", "--seamless", "--adam"]
    assert run("texture", photo, *options, "--out", str(tmp_path / "t.png")).code == 0
    request = sent(service, "SubmitJobRequest").texture
    assert (request.height, request.width, request.seamless) == (96, 80, True)
    assert (list(request.layers), list(request.weights)) == (["a", "b"], [2, 1])


def test_a_style_is_transferred(run, service, photo, tmp_path):
    options = [
        "--style",
        f"{photo}=2",
        "--mask",
        photo,
        "--classic",
        "--colours",
        "luminance",
        "--size",
        "64",
    ]
    assert run("style", photo, *options, "--out", str(tmp_path / "s.png")).code == 0
    request = sent(service, "SubmitJobRequest").style_transfer
    assert (request.method, request.colours, request.content.resize.fit.max_side) == (2, 2, 64)
    (style,) = request.styles
    assert style.weight == 2
    assert style.HasField("mask")
    assert run("style", photo, "--style", photo, "--mask", photo, "--mask", photo).code == 2


def test_a_style_network_is_trained(run, service, photo):
    options = ["--name", "p", "--preview", photo, "--steps", "9", "--layer", "a=2", "--no-wait"]
    assert run("train-style", photo, "--folder", "photos", *options).code == 0
    request = sent(service, "SubmitJobRequest").train_style
    assert (request.name, request.folder, request.steps) == ("p", "photos", 9)
    assert (list(request.layers), list(request.weights)) == (["a"], [2])
    assert request.preview.resize.fit.max_side == 512
    assert run("train-style", photo, "--collection", "c", *options).code == 0
    assert service.requests[-1].train_style.collection == "c"
    neither = run("train-style", photo, *options)
    assert neither.code == 2
    assert "source = 'neither': must be one of collection, folder" in neither.err


def test_the_sum_of_targets_is_one_objective(run, service):
    run("visualise", "--unit", "a:7", "--unit", "a:8", "--together", "--no-wait")
    (objective,) = sent(service, "SubmitJobRequest").feature_visualisation.objectives
    assert [term.weight for term in objective.terms] == [1, 1]


def test_a_dream_can_be_left_alone_and_found_again(run, service, photo, tmp_path):
    name = run("dream", photo, "--no-wait").out.splitlines()[0]
    assert name in run("jobs", "list").out
    assert "QUEUED" in run("jobs", "show", name).out
    assert run("jobs", "result", name, "--out", str(tmp_path / "d.png")).code == 0
    with Image.open(tmp_path / "d.png") as image:
        assert image.size == (600, 600)
    assert "image" in run("jobs", "result", name).out
    assert json.loads(run("jobs", "show", name, "--json").out)["metadata"]["state"] == "SUCCEEDED"
    assert run("jobs", "delete", name).code == 0
    assert run("jobs", "show", name).code == 2


def test_lists_are_filtered(run, service):
    assert run("jobs", "list", "--state", "running", "--technique", "deepdream").code == 0
    assert sent(service, "ListOperationsRequest").filter == "state=RUNNING AND technique=deepdream"


def test_how_the_queues_stand(run):
    shown = run("jobs", "stats").out
    for words in ("convlens-high (high): 2 waiting, 0 running", "7.5 s", "retried    3", "2e+09"):
        assert words in shown
    (queue,) = json.loads(run("jobs", "stats", "--json").out)
    assert (queue["priority"], queue["queued"], queue["counters"]) == ("HIGH", 2, {"retried": 3})


def test_a_dream_as_json_is_a_line_an_event_and_the_job(run, photo):
    lines = [json.loads(line) for line in run("dream", photo, "--json").out.splitlines()]
    assert [line["step"] for line in lines[:-1]] == [0, 1, 2, 3, 4, 4]
    assert lines[-1]["artifacts"][0]["shape"] == list(DREAM.shape)


def test_ctrl_c_cancels_the_dream(run, service, photo):
    def interrupt(replies, context):
        yield next(replies)
        os.kill(os.getpid(), signal.SIGINT)
        while "CANCELLED" not in service.jobs.values():
            time.sleep(0.01)
        service._stream = stream
        service.breaks = [0]
        yield from stream(replies, context)

    stream, service._stream = service._stream, interrupt
    answer = run("dream", photo)
    assert answer.code == 130
    assert "cancelled after" in answer.err
    assert set(service.jobs.values()) == {"CANCELLED"}


def test_cancelled_and_failed_jobs_make_wait_watch_and_result_fail(run, photo, tmp_path):
    name = run("dream", photo, "--no-wait").out.splitlines()[0]
    assert run("jobs", "cancel", name).code == 0
    for command in (("wait",), ("watch",), ("result", "--out", str(tmp_path / "x.png"))):
        answer = run("jobs", command[0], name, *command[1:])
        assert answer.code == 1
        assert "the job was cancelled" in answer.err
    assert not (tmp_path / "x.png").exists()


FAILURES = {
    "missing file": (("classify", "nowhere.png"), 2, "nowhere.png"),
    "unknown class": (("saliency", "{photo}", "--class", "zebra"), 2, "'zebra'"),
    "unclear neuron": (("saliency", "{photo}", "--neuron", "a"), 2, "LAYER:CHANNEL:Y:X"),
    "class and neuron": (("saliency", "{photo}", "--neuron", "a:1", "--log-prob"), 2, "without"),
    "nothing to visualise": (("visualise",), 2, "or --class"),
    "no number": (("attack", "{photo}", "--eps", "a lot"), 2, "8/255"),
    "no size": (("classify", "{photo}", "--resize", "8x"), 2, "HEIGHTxWIDTH"),
    "unknown ending": (("filters", "--out", "x.gif"), 2, ".npy"),
    "missing folder": (("filters", "--out", "nowhere/x.png"), 2, "folder"),
    "no such job": (("jobs", "show", "operations/none"), 2, "operations/none"),
}


@pytest.mark.parametrize(("arguments", "code", "text"), FAILURES.values(), ids=FAILURES)
def test_failures_are_one_line_and_a_code(run, photo, arguments, code, text):
    answer = run(*(argument.format(photo=photo) for argument in arguments))
    assert answer.code == code
    assert answer.err.count("\n") == 1
    assert text in answer.err
    assert not answer.out


@pytest.mark.parametrize(
    ("error", "code"), [(errors.NotFound("no model x"), 2), (errors.Internal("fault 12"), 1)]
)
def test_the_servers_failures_too(run, service, photo, error, code):
    service.failures = [error]
    answer = run("classify", photo)
    assert (answer.code, answer.err) == (code, f"convlens: {error}\n")


def test_a_server_that_is_not_there_brings_a_hint(run, photo):
    answer = run("classify", photo, "--server", "127.0.0.1:9")
    assert answer.code == 1
    assert "convlens up" in answer.err


def test_an_unknown_option_is_a_usage_error(run):
    assert run("classify", "--wat").code == 2


def _mount(monkeypatch, module):
    point = EntryPoint("models", "a_plugin:grow", plugins.GROUP)
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    app = typer.Typer()
    app.command()(lambda: None)
    group = typer.Typer()
    app.add_typer(group, name="models")
    plugins.mount({"models": group})
    return app


def test_another_packages_command_gets_its_arguments(monkeypatch, capsys):
    module = types.ModuleType("a_plugin")

    def grow(name: str, *, height: int = 1) -> None:
        """Grow."""
        print(name, height)

    grow.__annotations__ = {"name": str, "height": int}
    module.grow = grow
    app = _mount(monkeypatch, module)
    with pytest.raises(SystemExit) as caught:
        app(["models", "grow", "tree", "--height", "3"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == "tree 3\n"


def test_a_command_whose_libraries_are_missing_says_what_to_install(monkeypatch):
    app = _mount(monkeypatch, None)
    with pytest.raises(errors.FailedPrecondition, match=r"convlens\[export\]"):
        app(["models", "grow", "tree"])


def test_models_add_comes_from_the_models_package(run):
    answer = run("models", "add", "--help")
    assert answer.code == 0
    assert "--weights" in answer.out
