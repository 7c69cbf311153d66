"""The substitute attack, from the command line to a picture, with the machine itself as the victim."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convlens_client import Client

QUICK = ("--rounds", "1", "--epochs", "2")


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((96, 96)).save(tmp_path / f"{number}.png")
    return sorted(tmp_path.iterdir())


def test_it_copies_the_server_that_it_runs_on(run, photos, tmp_path):
    held_out = [word for path in photos[4:] for word in ("--held-out", path)]
    made = tmp_path / "fooled.png"
    answer = run("adversarial", "substitute", *photos[:4], *held_out, *QUICK, "--out", made)
    assert answer.code == 0, answer
    assert "queries: 8 to learn, " in answer.out
    assert "fooled by the attack" in answer.out
    with Image.open(made) as image:
        low, high = image.convert("L").getextrema()
    assert high - low > 50


def test_its_report_and_artifacts_arrive(machine, photos):
    with Client(machine.address) as client:
        operation = client.substitute(photos[:4], photos[4:], rounds=1, epochs=1, epsilon=8 / 255)
        operation.wait()
        report, shown = operation.report, operation.artifact("adversarial")
        weights = operation.artifact("weights.safetensors")
    assert len(report.agreement) == 2
    assert report.queries == 8
    assert 2 <= report.measuring_queries <= 6
    assert shown.shape == (2, 3, 96, 96)
    assert weights.dtype == np.uint8


def test_an_address_is_no_name(run, photos):
    arguments = ("--held-out", photos[1], "--victim", "oip://192.0.2.1:8001")
    answer = run("adversarial", "substitute", *photos[:2], *arguments)
    assert answer.code == 2
    assert "operator has allowed with CONVLENS_VICTIMS (self)" in " ".join(answer.err.split())
