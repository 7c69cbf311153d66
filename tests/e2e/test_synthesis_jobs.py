"""Every job that makes a picture, from the command line through server and worker to a file."""

from __future__ import annotations

import pytest
from PIL import Image

SMALL = ("--size", "64", "--seed", "1")
COMMANDS = {
    "visualise": ("visualise", "--unit", "features.relu2:3", "--class", "0", "--steps", "3", *SMALL),
    "texture": ("texture", "{photo}", "--steps", "3", "--height", "70", "--width", "90", *SMALL),
    "style": ("style", "{photo}", "--style", "{photo}=2", "--mask", "{photo}", "--first-steps", "3", *SMALL),
}
SIZES = {"visualise": (129, 64), "texture": (90, 70)}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_ends_with_a_picture(run, photo, tmp_path, name):
    command = [word.replace("{photo}", str(photo)) for word in COMMANDS[name]]
    answer = run(*command, "--out", tmp_path / "made.png")
    assert answer.code == 0, answer
    with Image.open(tmp_path / "made.png") as image:
        assert max(image.size) >= 64
        assert image.size == SIZES.get(name, image.size)
        low, high = image.convert("L").getextrema()
    assert high - low > 10


def test_a_unit_that_is_not_there_is_told(run):
    answer = run("visualise", "--unit", "features.relu2:9999", "--steps", "3")
    assert answer.code == 2
    assert "feature_visualisation.objectives[0].terms[0].target.channel.channel" in answer.err
