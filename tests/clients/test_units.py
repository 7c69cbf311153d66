"""What clients and the command line make of units: patterns, fields, and the pictures of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from support.fake_service import field_tensors

from convlens.errors import NotFound
from convlens_client import rendering
from convlens_client.cli.outcomes.artifact import picture
from convlens_client.results import Box, UnitHit

HIT = UnitHit(7.5, 2, 3, Box(1, 2, 5, 7))


def test_patterns_come_with_their_crops(client, service, pixels):
    patterns = client.unit_patterns([pixels, pixels], "features.0", 3, model="patterns/2")
    assert [item.hit for item in patterns] == [HIT] * 2
    assert [item.pattern.shape for item in patterns] == [(3, 5, 4), (3, 5, 5)]
    assert [item.pattern.flat[0] for item in patterns] == [-0.5, 0.5]
    assert (patterns[0].crop == 0.5).all()
    request = service.requests[0]
    assert (request.layer, request.channel, request.model.version) == ("features.0", 3, 2)


def test_a_field_has_both_sizes(client, service, pixels):
    seen = client.discrepancy_maps(pixels, "features.0", 3, patch=5, threshold=0.25)
    assert (seen.theoretical_size, seen.empirical_size, seen.hits) == (9, 4.5, (HIT,))
    assert (seen.images.shape, seen.maps.shape, seen.field.shape) == ((1, 3, 8, 10), (1, 8, 10), (9, 9))
    asked = service.requests[0].discrepancy
    assert (asked.patch, asked.threshold) == (5, 0.25)
    assert not asked.HasField("stride")
    assert not asked.HasField("seed")


def test_a_field_over_a_collection_is_a_job(client, service):
    operation = client.measure_receptive_field("birds", "features.0", 3, k=4, stride=2, seed=5)
    request = service.requests[0]
    asked = request.measure_receptive_field
    assert (asked.collection, asked.layer, asked.channel, asked.k) == ("birds", "features.0", 3, 4)
    assert (asked.discrepancy.stride, request.seed) == (2, 5)
    assert asked.HasField("discrepancy")
    assert operation.wait().state == "SUCCEEDED"


def test_patterns_are_drawn_in_two_rows(run, photo, tmp_path):
    out = tmp_path / "sheet.png"
    shown = run("units", "pattern", photo, photo, "--layer", "a", "--channel", "3", "--out", str(out)).out
    assert "2, 3" in shown
    assert "1-4, 2-6" in shown
    with Image.open(out) as image:
        assert image.size == (2 * 130, 2 * 130)
    run("units", "pattern", photo, photo, "--layer", "a", "--channel", "3", "--out", str(tmp_path / "p.npy"))
    patterns = np.load(tmp_path / "p.npy")
    assert patterns.shape == (2, 3, 5, 5)
    assert (patterns[0, :, :, 4] == 0).all()


def test_patterns_as_json_are_a_line_an_image(run, photo):
    line = json.loads(run("units", "pattern", photo, "--layer", "a", "--channel", "3", "--json").out)
    assert line["image"] == photo
    assert line["hit"]["box"] == {"left": 1, "top": 2, "right": 5, "bottom": 7}


def test_a_field_is_measured_and_drawn(run, service, photo, tmp_path):
    options = ["--layer", "a", "--channel", "3", "--patch", "7", "--stride", "2", "--seed", "4"]
    shown = run("units", "field", photo, *options, "--out", str(tmp_path / "f.png"))
    assert "empirical size 4.5 px, theoretical 9 px" in shown.out
    assert (tmp_path / "f.png").exists()
    asked = service.requests[0].discrepancy
    assert (asked.patch, asked.stride, asked.seed, asked.threshold) == (7, 2, 4, 0.5)
    facts = json.loads(run("units", "field", photo, *options, "--json").out)
    assert (facts["theoretical_size"], facts["empirical_size"]) == (9, 4.5)
    assert facts["hits"][0]["hit"]["value"] == 7.5


def test_a_collection_s_field_is_followed_and_drawn(run, service, tmp_path):
    service.artifacts = {**field_tensors(2), "sizes": np.array([9, 4.5], np.float32)}
    options = ["--layer", "a", "--channel", "3", "-k", "2"]
    shown = run("units", "measure", "birds", *options, "--out", str(tmp_path / "f.npy"))
    assert shown.code == 0
    assert "empirical size 4.5 px, theoretical 9 px" in shown.out
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), field_tensors(2)["field"])
    assert run("units", "measure", "birds", *options, "--out", str(tmp_path / "f.png")).code == 0
    assert (tmp_path / "f.png").exists()
    assert "operations/" in run("units", "measure", "birds", *options, "--no-wait").out


def test_a_failed_measurement_says_why(run, service, tmp_path):
    service.end = "CANCELLED"
    shown = run(
        "units", "measure", "birds", "--layer", "a", "--channel", "3", "--out", str(tmp_path / "f.png")
    )
    assert shown.code == 1
    assert "cancelled" in shown.err


def test_a_missing_photo_is_named(client):
    with pytest.raises(NotFound, match=r"nowhere\.png"):
        client.unit_patterns("nowhere.png", "a", 0)


def test_two_rows_keep_the_shape_of_what_they_show():
    wide, tall = np.zeros((4, 8, 3), np.uint8), np.full((9, 3, 3), 255, np.uint8)
    sheet = rendering.two_rows([wide], [tall], side=16)
    assert sheet.shape == (36, 18, 3)
    upper, lower = sheet[:18], sheet[18:]
    assert (upper[5:13, 1:17] == 0).all()
    assert (upper[2, 2] == 128).all()
    assert (lower[1:17, 7:11] == 255).all()


def test_heat_is_red_above_the_threshold_and_light_where_the_unit_looks():
    field = np.zeros((10, 10), np.float32)
    field[4:6, 4:6] = 2
    field[0, 0] = 0.9
    picture = rendering.heat(field, 0.5, side=10)
    assert picture[4, 4].tolist() == [255, 204, 204]
    assert picture[0, 0, 0] < 128
    lit = rendering.highlighted(np.ones((3, 10, 10), np.float32), field)
    assert lit[4, 4, 0] == 255
    assert lit[9, 9, 0] == 51


@pytest.mark.parametrize("shape", [(3, 8, 10), (4, 3, 8, 10), (8, 10), (4, 8, 10), (4, 2), (5,)])
def test_any_artifact_has_a_picture(shape):
    drawn = picture(np.random.default_rng(0).random(shape, np.float32))
    assert drawn.dtype == np.uint8
    assert drawn.shape[2] == 3
