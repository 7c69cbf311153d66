"""Pictures that the command line has made by a made-up server: what it asks, what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.fake_service import DREAM

from convlens import wire
from convlens.errors import InvalidArgument
from convlens_client import Style


def test_a_dream_is_followed_and_saved(run, service, photo, tmp_path):
    options = ["--layer", "a", "--layer", "b", "--steps", "3", "--seed", "7", "--size", "64"]
    assert run("dream", photo, *options, "--out", str(tmp_path / "d.npy")).code == 0
    request = service.sent("SubmitJobRequest")
    assert list(request.deepdream.layers) == ["a", "b"]
    assert (request.deepdream.steps, request.seed) == (3, 7)
    assert request.deepdream.image.resize.fit.max_side == 64
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), DREAM)


def test_a_dream_of_channels_and_a_guide(run, service, photo):
    options = ["--layer", "a", "--channel", "3", "--channel", "5", "--guide", photo, "--tile", "256"]
    assert run("dream", photo, *options, "--laplacian", "4", "--no-wait").code == 0
    request = service.sent("SubmitJobRequest").deepdream
    assert (list(request.channels), request.tile, request.laplacian) == ([3, 5], 256, 4)
    assert request.guide.encoded == request.image.encoded
    assert request.guide.resize.fit.max_side == 4096


def test_a_dream_of_several_frames_is_a_video_or_its_last_frame(run, service, photo, tmp_path):
    service.artifacts["zoom.webp"] = np.frombuffer(b"bytes of a video", np.uint8)
    options = ["--frames", "3", "--zoom", "1.1", "--frame-rate", "8"]
    assert run("dream", photo, *options, "--out", str(tmp_path / "d.webp")).code == 0
    request = service.sent("SubmitJobRequest").deepdream
    assert (request.frames, request.zoom, request.frame_rate) == (3, pytest.approx(1.1), 8)
    assert (tmp_path / "d.webp").read_bytes() == b"bytes of a video"
    assert run("dream", photo, *options, "--out", str(tmp_path / "d.png")).code == 0
    with Image.open(tmp_path / "d.png") as image:
        assert image.size == (600, 600)


@pytest.mark.parametrize(("kind", "number"), [("gif", 2), ("mp4", 3)])
def test_the_ending_of_a_file_says_what_is_made_of_the_frames(run, service, photo, tmp_path, kind, number):
    service.artifacts[f"zoom.{kind}"] = np.frombuffer(b"bytes of a video", np.uint8)
    path = tmp_path / f"d.{kind}"
    assert run("dream", photo, "--frames", "3", "--out", str(path)).code == 0
    assert service.sent("SubmitJobRequest").deepdream.video == number
    assert path.read_bytes() == b"bytes of a video"
    again = tmp_path / f"again.{kind}"
    name = run("dream", photo, "--frames", "3", "--video", kind, "--no-wait").out.strip()
    assert run("jobs", "result", name, "--out", str(again)).code == 0
    assert again.read_bytes() == b"bytes of a video"


def test_an_ending_that_is_not_what_was_asked_for_is_refused(run, service, photo, tmp_path):
    refused = run("dream", photo, "--frames", "3", "--video", "gif", "--out", str(tmp_path / "d.mp4"))
    assert (refused.code, "ending in .gif" in refused.err) == (2, True)
    assert run("visualise", "--unit", "a:7", "--out", str(tmp_path / "d.mp4")).code == 2


def test_a_dream_by_weights_and_strength_within_a_mask(run, service, photo):
    service.report = {"dream": {"layers": [{"layer": "a", "channels": [7, 3], "means": [2.5, 0.125]}]}}
    options = ["--layer", "a=2", "--layer", "b", "--mask", photo, "--keep-colours"]
    done = run("dream", photo, *options, "--strongest", "1", "--weakest", "1")
    request = service.sent("SubmitJobRequest").deepdream
    assert (list(request.layers), list(request.weights)) == (["a", "b"], [2, 1])
    assert (request.strongest, request.weakest, request.keep_colours) == (1, 1, True)
    assert request.mask.encoded == request.image.encoded
    assert request.mask.resize.fit.max_side == 4096
    assert [" ".join(row.split()) for row in done.out.splitlines()[-2:]] == ["a 7 2.5", "a 3 0.125"]


def test_units_and_classes_are_visualised(run, service, tmp_path):
    service.artifacts = {"images": np.full((4, 3, 30, 30), 0.25, np.float32)}
    options = ["--class", "wide checks", "--unit", "a:7", "--class", "0", "--unit", "a:7:2:3"]
    options += ["--pixels", "--steps", "9"]
    assert run("visualise", *options, "--out", str(tmp_path / "u.png")).code == 0
    request = service.sent("SubmitJobRequest").feature_visualisation
    targets = [item.terms[0].target for item in request.objectives]
    assert [target.WhichOneof("target") for target in targets] == [
        "class_score",
        "channel",
        "class_score",
        "neuron",
    ]
    assert (targets[1].channel.layer, targets[1].channel.channel) == ("a", 7)
    assert (request.steps, request.parametrisation) == (9, 2)
    assert (tmp_path / "u.png").exists()


def test_objectives_stand_in_the_order_given_whatever_they_are(run, service, photo, tmp_path):
    np.save(tmp_path / "v.npy", np.array([1.0, -2.0]))
    options = ["--direction", f"a:{tmp_path / 'v.npy'}", "--class", "dots", "--unit", "a:7"]
    options += [
        "--caricature",
        f"a:{photo}",
        "--direction",
        f"other/2@b:{tmp_path / 'v.npy'}",
        "--class",
        "0",
    ]
    options += ["--power", "2", "--start", photo, "--height", "64", "--width", "96"]
    options += ["--pad", "3", "--jitter", "0", "--scale", "0.2", "--rotate", "0"]
    assert run("visualise", *options, "--no-wait").code == 0
    request = service.sent("SubmitJobRequest").feature_visualisation
    terms = [item.terms[0] for item in request.objectives]
    kinds = [term.target.WhichOneof("target") or "caricature" for term in terms]
    assert kinds == ["direction", "class_score", "channel", "caricature", "direction", "class_score"]
    assert [term.target.class_score.index for term in terms] == [0, 1, 0, 0, 0, 0]
    assert wire.from_tensor(terms[0].target.direction.vector, "vector").tolist() == [1, -2]
    assert (terms[4].model.name, terms[4].model.version, terms[4].target.direction.layer) == ("other", 2, "b")
    assert [term.HasField("model") for term in terms] == [False] * 4 + [True, False]
    assert (terms[3].caricature.layer, terms[3].caricature.power) == ("a", 2)
    assert terms[3].caricature.image.encoded == request.start.encoded == Path(photo).read_bytes()
    assert (request.height, request.width, request.HasField("size")) == (64, 96, False)
    told = request.transforms
    assert (told.pad, told.jitter, told.scale, told.rotate) == (3, 0, pytest.approx(0.2), 0)
    assert all(told.HasField(name) for name in ("jitter", "rotate"))


def test_transforms_that_nobody_asks_about_are_left_to_the_server(run, service):
    run("visualise", "--class", "dots", "--no-wait")
    assert not service.sent("SubmitJobRequest").feature_visualisation.HasField("transforms")


@pytest.mark.parametrize(
    ("option", "text"), [("--caricature", "a"), ("--caricature", ":x.jpg"), ("--direction", "a:nothing.npy")]
)
def test_what_cannot_be_visualised_is_named(run, option, text):
    answer = run("visualise", option, text)
    assert answer.code == 2
    assert (option.strip("-") in answer.err, text in answer.err) == (True, True)


def test_pictures_have_captions_without_a_collection(run, service, tmp_path):
    """What each shows, how large, of which model: on the sheet and in words; also of a job left alone."""
    service.technique = "feature_visualisation"
    service.artifacts = {"images": np.full((4, 3, 40, 60), 0.25, np.float32)}
    shown = [{"name": "dots (1)", "values": [12.345, 3]}, {"name": "a:7", "values": [0.5, 7]}]
    service.report = {"visualisation": {"objectives": shown}}
    answer = run(
        "visualise", "--class", "dots", "--unit", "a:7", "--variants", "2", "--out", str(tmp_path / "u.png")
    )
    assert answer.code == 0
    assert "dots (1): 12.35, 3 (patterns/1, 60 x 40 px)" in answer.out
    assert "a:7: 0.5, 7 (patterns/1, 60 x 40 px)" in answer.out
    (name,) = service.jobs
    left = run("jobs", "result", name, "--out", str(tmp_path / "later.png"))
    assert "a:7: 0.5, 7 (patterns/1, 60 x 40 px)" in left.out
    assert (tmp_path / "u.png").read_bytes() == (tmp_path / "later.png").read_bytes()
    sheet = np.asarray(Image.open(tmp_path / "u.png"))
    assert 4 * 40 * 60 <= (sheet == 64).all(-1).sum() < 4 * 40 * 60 + 50
    assert (sheet == 0).all(-1).sum() > 50  # Letters.


def test_one_picture_alone_is_the_picture(run, service, tmp_path):
    service.technique = "feature_visualisation"
    service.artifacts = {"images": np.full((1, 3, 40, 60), 0.25, np.float32)}
    service.report = {"visualisation": {"objectives": [{"name": "dots (1)", "values": [2]}]}}
    answer = run("visualise", "--class", "dots", "--out", str(tmp_path / "u.png"))
    assert "dots (1): 2 (patterns/1, 60 x 40 px)" in answer.out
    with Image.open(tmp_path / "u.png") as picture:
        assert picture.size == (60, 40)


def test_the_sum_of_targets_is_one_objective(run, service):
    run("visualise", "--unit", "a:7", "--unit", "a:8", "--together", "--no-wait")
    (objective,) = service.sent("SubmitJobRequest").feature_visualisation.objectives
    assert [term.weight for term in objective.terms] == [1, 1]


def test_units_are_shown_beside_what_excites_them_in_a_collection(run, service, tmp_path):
    """Two units, three pictures of each: six crops, and the unit's name below what was made for it."""
    service.artifacts = {
        "images": np.full((2, 3, 30, 30), 0.25, np.float32),
        "examples": np.full((6, 3, 20, 20), 0.75, np.float32),
    }
    options = ["--unit", "a:7", "--class", "wide checks", "--collection", "mine", "--examples", "3"]
    assert run("visualise", *options, "--out", str(tmp_path / "u.png")).code == 0
    request = service.sent("SubmitJobRequest").feature_visualisation
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
    request = service.sent("SubmitJobRequest").texture
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
    request = service.sent("SubmitJobRequest").style_transfer
    assert (request.method, request.colours, request.content.resize.fit.max_side) == (2, 2, 64)
    (style,) = request.styles
    assert style.weight == 2
    assert style.HasField("mask")
    assert run("style", photo, "--style", photo, "--mask", photo, "--mask", photo).code == 2


def test_each_style_has_masks_and_a_scale_of_its_own(run, service, photo):
    options = ["--style", photo, "--style", f"{photo}=3", "--mask", photo, "--mask", "none"]
    options += ["--style-mask", "none", "--style-mask", photo, "--style-scale", "1/2", "--style-scale", "2"]
    assert run("style", photo, *options, "--no-wait").code == 0
    first, second = service.sent("SubmitJobRequest").style_transfer.styles
    assert (first.weight, first.scale, second.weight, second.scale) == (1, 0.5, 3, 2)
    assert [first.HasField("mask"), first.HasField("style_mask")] == [True, False]
    assert [second.HasField("mask"), second.HasField("style_mask")] == [False, True]
    assert (
        run("style", photo, "--style", photo, "--style", photo, "--style-scale", "2", "--no-wait").code == 0
    )
    assert [style.scale for style in service.requests[-1].style_transfer.styles] == [2, 2]
    wrong = run("style", photo, "--style", photo, "--style-mask", photo, "--style-mask", photo)
    assert wrong.code == 2
    assert "style_mask = '2 of it': must be 1, one a style, or none" in wrong.err


def test_a_style_is_told_how_to_begin_and_end(run, service, photo):
    options = ["--initial", photo, "--pooling", "l2", "--optimiser", "lbfgs"]
    options += ["--size", "700", "--shorter-side", "--enlarge"]
    assert run("style", photo, "--style", photo, *options, "--no-wait").code == 0
    request = service.sent("SubmitJobRequest").style_transfer
    fit = request.content.resize.fit
    assert (fit.max_side, fit.shorter, fit.enlarge) == (700, True, True)
    assert (request.pooling, request.optimiser, request.start) == (3, 1, 0)
    assert request.initial.resize.fit.max_side == 4096
    assert run("style", photo, "--style", photo, "--start", "grey", "--no-wait").code == 0
    assert service.requests[-1].style_transfer.start == 3
    alone = run("style", photo, "--style", photo, "--enlarge")
    assert alone.code == 2
    assert "enlarge = True: must be given with a size" in alone.err


def test_the_same_in_python(client, service, photo):
    given = Style(photo, mask=photo, style_mask=photo, scale=0.5)
    client.style_transfer(photo, given, initial=photo, size=96, enlarge=True, pooling="max", optimiser="adam")
    request = service.sent("SubmitJobRequest").style_transfer
    (style,) = request.styles
    assert style.HasField("mask")
    assert style.HasField("style_mask")
    assert style.scale == 0.5
    fit = request.content.resize.fit
    assert (fit.max_side, fit.shorter, fit.enlarge) == (96, False, True)
    assert (request.pooling, request.optimiser) == (2, 2)
    with pytest.raises(InvalidArgument, match="resize = 64: must be left out beside size"):
        client.style_transfer(photo, photo, size=64, resize=64)


STYLES = {
    "a path": lambda path: path,
    "paths": lambda path: [path],
    "a picture": lambda path: np.zeros((9, 8, 3), np.uint8),
    "a style": Style,
    "styles and paths": lambda path: [Style(path, 2.0), path],
}


@pytest.mark.parametrize("styles", STYLES.values(), ids=STYLES)
def test_a_picture_is_a_style(client, service, photo, styles):
    given = styles(photo)
    client.style_transfer(photo, given)
    sent = service.sent("SubmitJobRequest").style_transfer.styles
    assert len(sent) == (len(given) if isinstance(given, list) else 1)
    assert all(style.image.resize.fit.max_side == 4096 for style in sent)
    assert [style.weight for style in sent if style.HasField("weight")] == [2] * (len(sent) - 1)


def test_a_style_network_is_trained(run, service, photo):
    options = ["--name", "p", "--preview", photo, "--steps", "9", "--layer", "a=2", "--no-wait"]
    assert run("train-style", photo, "--folder", "photos", *options).code == 0
    request = service.sent("SubmitJobRequest").train_style
    assert (request.name, request.folder, request.steps) == ("p", "photos", 9)
    assert (list(request.layers), list(request.weights)) == (["a"], [2])
    assert request.preview.resize.fit.max_side == 512
    assert run("train-style", photo, "--collection", "c", *options).code == 0
    assert service.requests[-1].train_style.collection == "c"
    run("train-style", photo, "--folder", "photos", *options, "--start-from", "q/2")
    start = service.requests[-1].train_style.start_from
    assert (start.name, start.version) == ("q", 2)
    neither = run("train-style", photo, *options)
    assert neither.code == 2
    assert "source = 'neither': must be one of collection, folder" in neither.err
