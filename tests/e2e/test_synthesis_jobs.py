"""Every job that makes a picture, from the command line through server and worker to a file."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from PIL import Image
from support.collections import picture

SMALL = ("--size", "64", "--seed", "1")
COMMANDS = {
    "visualise": ("visualise", "--unit", "features.relu2:3", "--class", "0", "--steps", "3", *SMALL),
    "texture": ("texture", "{photo}", "--steps", "3", "--height", "70", "--width", "90", *SMALL),
    "style": ("style", "{photo}", "--style", "{photo}=2", "--mask", "{photo}", "--first-steps", "3", *SMALL),
}
SIZES = {"texture": (90, 70)}
SAID = {"visualise": ("features.relu2:3: ", "horizontal stripes (0): ", "(patterns/1, 64 x 64 px)")}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_ends_with_a_picture(run, photo, tmp_path, name):
    command = [word.replace("{photo}", str(photo)) for word in COMMANDS[name]]
    answer = run(*command, "--out", tmp_path / "made.png")
    assert answer.code == 0, answer
    assert all(words in answer.out for words in SAID.get(name, ()))
    with Image.open(tmp_path / "made.png") as image:
        assert max(image.size) >= 64
        assert image.size == SIZES.get(name, image.size)
        low, high = image.convert("L").getextrema()
    assert high - low > 10


def test_a_style_network_is_trained_and_paints(run, photo, tmp_path):
    assert run("collections", "create", "learn").code == 0
    (tmp_path / "learn").mkdir()
    for number in range(4):
        (tmp_path / "learn" / f"{number}.png").write_bytes(picture(number, 80))
    assert run("collections", "add", "learn", tmp_path / "learn").code == 0
    small = ("--steps", "3", "--batch", "2", "--size", "64", "--width", "4")
    train = ("train-style", photo, "--name", "painter", "--collection", "learn", *small)
    trained = run(*train, "--preview", photo, "--out", tmp_path / "preview.png")
    assert trained.code == 0, trained
    assert "trained painter/1" in trained.out
    painted = run("stylise", photo, "--model", "painter", "--out", tmp_path / "painted.png")
    assert painted.code == 0, painted
    with Image.open(tmp_path / "preview.png") as preview, Image.open(tmp_path / "painted.png") as image:
        difference = np.abs(np.asarray(preview, int) - np.asarray(image, int))
    assert difference.max() <= 2


def test_a_unit_that_is_not_there_is_told(run):
    answer = run("visualise", "--unit", "features.relu2:9999", "--steps", "3")
    assert answer.code == 2
    assert "feature_visualisation.objectives[0].terms[0].target.channel.channel" in answer.err


def test_a_dream_is_shown_run_again_and_gone_on_from(run, photo, tmp_path):
    small = ("--size", "64", "--octaves", "1", "--tag", "who=ana", "--save-every", "2")
    dreamt = run("dream", photo, "--steps", "3", *small, "--out", tmp_path / "d.png")
    assert dreamt.code == 0, dreamt
    assert (tmp_path / "d-step.000002.png").exists()
    (row,) = [line for line in run("jobs", "list", "--tag", "who=ana").out.splitlines() if "who=ana" in line]
    name = row.split()[0]
    shown = run("jobs", "show", name).out
    assert f"{photo.name}, SHA-256 {sha256(photo.read_bytes()).hexdigest()}" in shown
    assert run("jobs", "rerun", name, "--out", tmp_path / "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "d.png").read_bytes()
    assert run("jobs", "rerun", name, "--steps", "5", "--out", tmp_path / "whole.png").code == 0
    more = run("jobs", "resume", name, "--steps", "5", "--out", tmp_path / "more.png")
    assert more.code == 0, more
    assert (tmp_path / "more.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    refused = run("jobs", "resume", name)
    assert refused.code == 2
    assert "larger may be steps" in refused.err
