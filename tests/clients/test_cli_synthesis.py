"""Pictures that the command line has made by a made-up server: what it asks, what it writes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.fake_service import DREAM

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
    neither = run("train-style", photo, *options)
    assert neither.code == 2
    assert "source = 'neither': must be one of collection, folder" in neither.err
