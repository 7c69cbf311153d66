"""Attacks that a camera sees, from the command line through server and worker to a picture and a report."""

from __future__ import annotations

import pytest
from PIL import Image

from convlens.errors import InvalidArgument
from convlens_client import Transforms

COMMANDS = {
    "expectation": (
        "--target dots --steps 4 --samples 3 --angles 3 --held-out 2 --rotation 20 --norm l2",
        ("passes", "as 8-bit PNG"),
    ),
    "patch": (
        "--target star --steps 4 --samples 2 --diameter 0.5 --held-out {photo}",
        ("with the patch", "with a patch of noise", "of 4 placements"),
    ),
    "printed": (
        "--labels {labels} --eps 1/255 --eps 8/255 --photographs 2 --noise 0.02",
        ("fgsm", "bim", "least_likely", "unchanged prints"),
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_draws_and_tells_what_it_did(run, photo, tmp_path, name):
    labels = tmp_path / "labels.tsv"
    labels.write_text(f"{photo.name}\tdots\n")
    arguments, told = COMMANDS[name]
    given = [text.format(photo=photo, labels=labels) for text in arguments.split()]
    answer = run("adversarial", name, photo, *given, "--out", tmp_path / "made.png")
    assert answer.code == 0, answer
    assert all(words in answer.out for words in told), answer.out
    with Image.open(tmp_path / "made.png") as image:
        low, high = image.convert("L").getextrema()
    assert high - low > 100


def test_reports_and_artifacts_come_through_the_client(client, photo):
    few = {"samples": 2, "steps": 2}
    operation = client.expectation_attack([photo], 3, **few, angles=2, transforms=Transforms(rotation=45))
    tensors = operation.result()
    assert tensors["angles"].tolist() == [-45, 45]
    assert tensors["probabilities"].shape == (3, 1, 2)
    assert operation.report.certificates[0].queries == 4
    operation = client.adversarial_patch([photo], 3, **few, held_out=[photo, photo])
    assert operation.result()["disc"].shape[1:] == operation.result()["mask"].repeat(3, 1).shape[1:]
    assert operation.report.placements in (0, 8)
    operation = client.printed_photo([photo], 3, epsilons=[4 / 255], photographs=1)
    assert operation.result()["photographs"].shape[:2] == (3, 1)
    assert [row.attack for row in operation.report.rows] == ["fgsm", "bim", "least_likely"]


def test_what_does_not_fit_is_told(run, client, photo):
    with pytest.raises(InvalidArgument, match=r"adversarial_patch\.held_out"):
        client.adversarial_patch([photo], 3)
    answer = run("adversarial", "expectation", photo, "--target", "dots", "--samples", "0")
    assert answer.code == 2
    assert "samples" in answer.err
