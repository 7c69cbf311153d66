"""Every attack that is a job, from the command line through server and worker to a picture and a report."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from convlens.errors import InvalidArgument

COMMANDS = {
    "lbfgs": ("--target", "dots", "--searches", "3", "--steps", "5"),
    "carlini-wagner": ("--target", "star", "--searches", "2", "--steps", "10", "--learning-rate", "0.05"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_draws_and_tells_what_it_did(run, photo, tmp_path, name):
    answer = run("adversarial", name, photo, *COMMANDS[name], "--out", tmp_path / "made.png")
    assert answer.code == 0, answer
    job, *_ = json.loads(run("jobs", "list", "--json").out)
    again = run("jobs", "result", job["name"], "--out", tmp_path / "again.png")
    assert again.out == answer.out
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "made.png").read_bytes()
    assert "after " in answer.out
    assert "passes" in answer.out
    with Image.open(tmp_path / "made.png") as image:
        low, high = image.convert("L").getextrema()
    assert high - low > 100


def test_certificates_come_as_json_and_through_the_client(run, client, photo):
    answer = run("adversarial", "lbfgs", photo, *COMMANDS["lbfgs"], "--json")
    assert answer.code == 0, answer
    told = json.loads(answer.out.splitlines()[-1])
    (certificate,) = client.operation(told["name"]).report.certificates
    assert told["report"]["certificates"][0]["l2"] == pytest.approx(certificate.l2)
    assert certificate.queries > 0


def test_targets_that_are_too_many_are_told(run, client, photo):
    with pytest.raises(InvalidArgument, match=r"lbfgs_attack\.targets"):
        client.lbfgs_attack([photo], [1, 2])
    answer = run("adversarial", "lbfgs", photo, "--target", "no such thing")
    assert answer.code == 2
    assert "near" in answer.err
