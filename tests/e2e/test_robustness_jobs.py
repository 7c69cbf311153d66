"""Attacks that ask what a network withstands, from the command line to a picture and a table."""

from __future__ import annotations

import pytest
from PIL import Image

COMMANDS = {
    "defence": (("--eps", "4/255", "--steps", "4"), ("BPDA, defended", "plain PGD, defended")),
    "ensemble": (
        ("--eps", "2/255", "--steps", "4", "--targets", "2", "--queries", "8"),
        ("apgd_ce", "apgd_t", "square", "in the worst case"),
    ),
    "transfer": (
        ("--to", "patterns", "--steps", "3"),
        ("attack on", "patterns/1", "right without an attack"),
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_draws_and_tells_what_is_left(run, photo, tmp_path, name):
    labels = tmp_path / "labels.tsv"
    labels.write_text(f"{photo.name}\tdots\n")
    arguments, told = COMMANDS[name]
    answer = run("adversarial", name, photo, "--labels", labels, *arguments, "--out", tmp_path / "made.png")
    assert answer.code == 0, answer
    assert all(words in answer.out for words in told), answer.out
    with Image.open(tmp_path / "made.png") as image:
        low, high = image.convert("L").getextrema()
    assert high - low > 50


def test_models_of_other_classes_and_bad_strengths_are_told(run, photo, tmp_path):
    labels = tmp_path / "labels.tsv"
    labels.write_text(f"{photo.name}\tdots\n")
    common = ("adversarial", "defence", photo, "--labels", labels)
    answer = run(*common, "--strength", "0.5")
    assert answer.code == 2
    assert "a whole number, the quality of jpeg" in answer.err
    answer = run("adversarial", "transfer", photo, "--labels", labels, "--to", "none such")
    assert answer.code == 2
    assert "none such" in answer.err
