"""The command line's attacks against a made-up server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image


def test_an_attack_prints_its_certificate(run, service, photo, tmp_path):
    answer = run("attack", photo, "--eps", "4/255", "--target", "dots", "--out", str(tmp_path / "t.png"))
    assert "largest change 25.5/255" in answer.out
    request = service.sent("AttackRequest")
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
    pgd = service.sent("AttackRequest").pgd
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
    assert list(service.sent("MeasureRobustnessRequest").labels) == [1, 2]
    with Image.open(tmp_path / "c.png") as image:
        assert image.size == (640, 360)
    service.requests.clear()
    labels = tmp_path / "labels.tsv"
    labels.write_text("0001_a.png\tdots\n0002_b.png\t3\n")
    options = ["--labels", str(labels), "--method", "fgsm", "--eps", "0", "--eps", "0.5/255", "--json"]
    assert len(json.loads(run("robustness", str(folder), *options).out)["points"]) == 3
    request = service.sent("MeasureRobustnessRequest")
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
