"""Saliency and the sanity check, from the client and the command line, against a made-up server."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import attribution_pb2, job_pb2
from convlens_client import Channel, ClassScore, Client, Direction, rendering
from convlens_client.images import as_seen
from convlens_client.requests import TECHNIQUES


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


def asked(service):
    """The attributions of the last request."""
    return list(service.requests[-1].attributions)


def test_every_technique_of_the_contract_can_be_asked_for(client, service, pixels):
    arms = attribution_pb2.Attribution.DESCRIPTOR.oneofs_by_name["technique"].fields
    assert list(TECHNIQUES) == [arm.name for arm in arms]
    client.attribute_all(pixels, [(name, ClassScore()) for name in TECHNIQUES])
    assert [item.WhichOneof("technique") for item in asked(service)] == list(TECHNIQUES)


def test_parameters_are_those_of_the_technique(client, service, pixels):
    client.attribute(pixels, "smoothgrad", samples=7, sigma=0.5)
    assert asked(service)[0].smoothgrad == attribution_pb2.SmoothGrad(samples=7, sigma=0.5)
    client.attribute(pixels, attribution_pb2.Rise(masks=9))
    assert asked(service)[0].rise == attribution_pb2.Rise(masks=9)
    with pytest.raises(InvalidArgument, match="smoothgrad takes samples, sigma, seed"):
        client.attribute(pixels, "smoothgrad", steps=7)
    with pytest.raises(InvalidArgument, match="gradient takes nothing"):
        client.attribute(pixels, "gradient", steps=7)
    with pytest.raises(InvalidArgument, match="'Quality': must be one of gradient"):
        client.attribute(pixels, attribution_pb2.Quality())


def test_targets_inside_the_network(client, service, pixels):
    client.attribute(pixels, target=Channel("a", 3))
    assert asked(service)[0].target.channel.channel == 3
    client.attribute(pixels, target=Direction("a", (1, 0.5)))
    assert wire.from_tensor(asked(service)[0].target.direction.vector).tolist() == [1, 0.5]


def test_quality_comes_when_asked_for(client, service, pixels):
    assert client.attribute(pixels).insertion == ()
    assert client.attribute(pixels, quality=True).insertion == (0.75,)
    assert not service.requests[-1].quality.HasField("steps")
    client.attribute(pixels, quality=9)
    assert service.requests[-1].quality.steps == 9
    asked_for = attribution_pb2.Quality(steps=3, deletion_end=attribution_pb2.DELETION_END_GREY)
    found = client.attribute(pixels, quality=asked_for)
    assert service.requests[-1].quality == asked_for
    assert (found.quality.steps, found.quality.deletion_end) == (3, "GREY")
    assert client.attribute(pixels).quality is None


def test_a_cascade_is_a_tuple_of_layers(client, service, pixels):
    cascade = client.check_randomisation(pixels, ["gradient", "rise"], layers=4, seed=2)
    assert [item.layer for item in cascade] == ["top", "below"]
    assert cascade[0].correlations[1].absolute == 0.25
    assert math.isnan(cascade[1].correlations[0].signed)
    assert (service.requests[-1].layers, service.requests[-1].seed) == (4, 2)


def test_options_become_parameters(run, service, photo, tmp_path):
    picture = str(tmp_path / "s.png")
    options = ("--window", "9", "--stride", "3", "--fill", "0.25", "--channel", "scope:a:3", "--out", picture)
    assert run("saliency", photo, "--method", "occlusion", *options).code == 0
    (item,) = asked(service)
    assert item.occlusion == attribution_pb2.Occlusion(window=9, stride=3, fill=0.25)
    assert (item.target.channel.layer, item.target.channel.channel) == ("scope:a", 3)
    with Image.open(picture) as image:
        assert image.size == (8, 8)


def test_a_direction_is_read_from_a_file(run, service, photo, tmp_path):
    file = tmp_path / "d.npy"
    np.save(file, np.array([1.0, -2.0]))
    assert run("saliency", photo, "--direction", f"a.b:{file}").code == 0
    direction = asked(service)[0].target.direction
    assert direction.layer == "a.b"
    assert wire.from_tensor(direction.vector).tolist() == [1, -2]


def test_scores_are_shown(run, photo):
    assert "insertion: 0.75" in run("saliency", photo, "--quality").out
    shown = run("saliency", photo, "--quality", "--insertion-start", "scaled", "--deletion-end", "grey").out
    assert "insertion from the scaled blur, deletion to grey" in shown
    told = json.loads(run("saliency", photo, "--quality", "--json").out)
    assert (told["insertion"], told["deletion"]) == (0.75, None)


def test_the_sanity_check_is_a_table(run, service, photo):
    shown = run("sanity-check", photo, "--method", "gradient", "--method", "grad-cam", "--layers", "2").out
    assert [item.WhichOneof("technique") for item in asked(service)] == ["gradient", "grad_cam"]
    top, below = shown.splitlines()[-2:]
    assert top.split() == ["top", *["0.50", "/", "0.25"] * 2]
    assert below.split() == ["below", "blank", "blank"]
    told = json.loads(run("sanity-check", photo, "--method", "rise", "--json").out)
    expected = {"signed": 0.5, "absolute": 0.25, "blank": False, "trained_blank": False}
    assert told[0] == {"layer": "top", "correlations": {"rise": expected}}
    assert told[1]["correlations"]["rise"]["signed"] is None
    assert told[1]["correlations"]["rise"]["blank"]
    assert run("sanity-check", photo, "--weights", "zero-mean").code == 0
    assert service.requests[-1].weights == attribution_pb2.RANDOM_WEIGHTS_ZERO_MEAN


BAD = {
    "wrong technique's": (("--samples", "3"), "gradient takes nothing"),
    "unclear channel": (("--channel", "a"), "LAYER:CHANNEL"),
    "two units": (("--channel", "a:1", "--neuron", "a:1"), "without --class"),
    "class and channel": (("--channel", "a:1", "--class", "dots"), "without --class"),
    "no such file": (("--direction", "a:nowhere.npy"), "readable array"),
}


@pytest.mark.parametrize(("options", "text"), BAD.values(), ids=BAD)
def test_bad_options_are_refused(run, photo, options, text):
    answer = run("saliency", photo, *options)
    assert answer.code == 2
    assert text in answer.err


def test_glow_goes_over_the_photo():
    background = np.full((2, 2, 3), 200, np.uint8)
    picture = rendering.glow(np.array([[[-1.0, 0.0], [1.0, 3.0]]]), background).astype(int)
    brightness = picture.sum(axis=-1)
    assert brightness[0, 0] < brightness[0, 1] < brightness[1, 0] < brightness[1, 1]
    assert (rendering.glow(np.ones((3, 2, 2)), background) == picture[0, 0]).all()


@pytest.mark.parametrize("size", [(130, 200), (200, 131), (96, 96)])
def test_a_file_is_shown_as_the_server_sees_it(tmp_path, size):
    from convlens.v1 import image_pb2
    from convlens_client.images import to_resize
    from convlens_models.preprocess import to_input
    from convlens_models.repository import ModelRepository

    path = tmp_path / "photo.png"
    path.write_bytes(wire.encode_image(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)))
    for resize in (None, "keep", 80, (70, 90)):
        message = image_pb2.Image(encoded=path.read_bytes(), resize=resize and to_resize(resize))
        seen = to_input(message, ModelRepository().get().manifest)
        assert np.array_equal(as_seen(path, *seen.shape[1:], resize), rendering.photo(seen))


MAPS = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)


@pytest.fixture
def mapped(service):
    """A service whose jobs are attributions."""
    service.technique, service.artifacts = "attribution_maps", {"0.rise": MAPS}
    target = attribution_pb2.AttributedTarget(values=[2.5], class_indices=[1])
    service.report = {"attribution": attribution_pb2.AttributeResult(targets=[target])}
    return service


def test_a_job_is_asked_for_what_the_call_is(run, mapped, photo, tmp_path):
    """Files at the size of quick calls, which jobs would keep."""
    options = ("--method", "rise", "--masks", "20000", "--seed", "3", "--tag", "who=ana")
    answer = run("saliency", photo, *options, "--job", "--out", tmp_path / "s.png")
    assert answer.code == 0, answer
    assert "rise: class 1: 2.5" in answer.out
    (request,) = (each for each in mapped.requests if isinstance(each, job_pb2.SubmitJobRequest))
    (item,) = request.attribution_maps.attributions
    assert item.rise == attribution_pb2.Rise(masks=20_000, seed=3)
    assert request.attribution_maps.images[0].resize.HasField("short_side")
    assert request.tags == {"who": "ana"}
    name = run("saliency", photo, *options, "--job", "--no-wait").out.strip()
    assert run("jobs", "result", name, "--out", tmp_path / "found.npy").code == 0
    assert (np.load(tmp_path / "found.npy") == MAPS[0]).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--no-wait",), "given with --job"),
        (("--tag", "a=b"), "given with --job"),
        (("--job", "--quality"), "left out with --job"),
    ],
)
def test_what_a_job_alone_can_be_told(run, photo, options, says):
    answer = run("saliency", photo, "--method", "rise", *options)
    assert answer.code == 2
    assert says in answer.err
