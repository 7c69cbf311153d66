"""What a job comes to is the same whether it was waited for or found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from support.fake_service import PREDICTION

from convlens.v1 import adversarial_pb2, attack_pb2, job_pb2, style_pb2
from convlens_client.cli.outcomes import OUTCOMES, field
from convlens_client.contract import arms

CERTIFICATE = attack_pb2.Certificate(
    linf=0.1, l2=1.25, before=PREDICTION, after=PREDICTION, after_encoding=PREDICTION, queries=77
)
CERTIFICATES = [CERTIFICATE] * 2


def images(*names, count=2, depth=3):
    draw = np.random.default_rng(5)
    return {name: draw.random((count, depth, 24, 32), np.float32) for name in names}


class Job(NamedTuple):
    """A job: the command that starts it, its artifacts and report, and words that it prints."""

    command: tuple[str, ...]
    artifacts: dict[str, Any]
    report: dict[str, Any]
    words: str
    main: str = "adversarial"


ATTACK = {"attack": attack_pb2.AttackResult(certificates=CERTIFICATES)}
TRIPLE = images("original", "perturbation", "adversarial")
NAMED = ("--labels-from-names",)
JOBS = {
    "lbfgs_attack": Job(("lbfgs", "{photo}", "--target", "dots"), TRIPLE, ATTACK, "L2 1.25, 77 passes"),
    "carlini_wagner": Job(("carlini-wagner", "{photo}"), TRIPLE, ATTACK, "L2 1.25, 77 passes"),
    "expectation_attack": Job(
        ("expectation", "{photo}", "--target", "dots"),
        {
            **images("original", "naive", "adversarial"),
            "angles": np.linspace(-20, 20, 5, dtype=np.float32),
            "probabilities": np.random.default_rng(1).random((3, 2, 5), np.float32),
        },
        ATTACK,
        "77 passes",
    ),
    "adversarial_patch": Job(
        ("patch", "{photo}", "--target", "dots"),
        {**images("disc", count=1), **images("mask", count=1, depth=1), **images("pictures", count=6)},
        {"patch": adversarial_pb2.PatchReport(success=0.625, placements=40)},
        "62.5%",
        "disc",
    ),
    "defence_attack": Job(
        ("defence", "{photo}", *NAMED),
        images("original", "adversarial"),
        {"defence": adversarial_pb2.DefenceReport(certificates=CERTIFICATES, accuracy=0.375)},
        "37.5%",
    ),
    "attack_ensemble": Job(
        ("ensemble", "{photo}", *NAMED),
        images("original", "adversarial"),
        {"ensemble": adversarial_pb2.EnsembleReport(certificates=CERTIFICATES, accuracy=0.125)},
        "12.5% in the worst case",
    ),
    "transfer_matrix": Job(
        ("transfer", "{photo}", *NAMED),
        {name: np.eye(2, dtype=np.float32) for name in ("matrix", "noise")},
        {
            "transfer": adversarial_pb2.TransferReport(
                models=[{"name": "a"}, {"name": "b"}], accuracies=[0.875, 1]
            )
        },
        "a 87.5%",
        "matrix",
    ),
    "substitute": Job(
        ("substitute", "{photo}", "--held-out", "{photo}"),
        {"weights.safetensors": np.zeros(9, np.uint8), **images("adversarial")},
        {"substitute": adversarial_pb2.SubstituteReport(agreement=[0.5], transfer=0.75)},
        "the victim 75.0%",
    ),
    "printed_photo": Job(
        ("printed", "{photo}", *NAMED),
        {"photographs": np.random.default_rng(2).random((1, 1, 3, 8, 8), np.float32)},
        {
            "printed": adversarial_pb2.PrintedReport(
                rows=[adversarial_pb2.PrintedRow(attack="bim", epsilon=8 / 255, destruction=0.25)],
                clean_accuracy=0.875,
            )
        },
        "87.5%",
        "photographs",
    ),
}


@pytest.fixture
def named(tmp_path, photo):
    """A photo whose name begins with its class."""
    path = tmp_path / "0002_photo.png"
    path.write_bytes(Path(photo).read_bytes())
    return str(path)


@pytest.fixture
def both(run, service, named, tmp_path):
    """Runs a job in both ways; returns what each printed, what `show` did, and the two files."""

    def both(job, ending):
        service.artifacts, service.report = job.artifacts, job.report
        command = [word.format(photo=named) for word in job.command]
        waited = run("adversarial", *command, "--out", tmp_path / f"waited{ending}")
        assert waited.code == 0, waited
        name = run("adversarial", *command, "--no-wait").out.strip()
        found = run("jobs", "result", name, "--out", tmp_path / f"found{ending}")
        assert found.code == 0, found
        shown = run("jobs", "show", name).out
        return waited.out, found.out, shown, *(tmp_path / f"{way}{ending}" for way in ("waited", "found"))

    return both


@pytest.mark.parametrize("technique", JOBS)
def test_a_job_found_again_comes_to_what_waiting_would_have(both, technique):
    waited, found, shown, one, other = both(JOBS[technique], ".png")
    assert one.read_bytes() == other.read_bytes()
    assert waited == found
    assert shown.endswith(waited)
    assert JOBS[technique].words in " ".join(waited.split())


@pytest.mark.parametrize("technique", JOBS)
def test_the_tensor_is_the_main_one(both, technique):
    *_, one, other = both(JOBS[technique], ".npy")
    assert (np.load(one) == np.load(other)).all()
    main = JOBS[technique].artifacts[JOBS[technique].main]
    assert np.load(other).shape in (main.shape, main.shape[1:])


def test_every_technique_has_an_outcome():
    assert OUTCOMES.keys() == arms(job_pb2.SubmitJobRequest.DESCRIPTOR).keys()


def test_a_named_artifact_is_written_as_it_is(run, service, tmp_path):
    service.technique, service.artifacts, service.report = "lbfgs_attack", TRIPLE, ATTACK
    service.jobs = {"operations/a": "SUCCEEDED"}
    out = tmp_path / "o.npy"
    answer = run("jobs", "result", "a", "--artifact", "original", "--out", out)
    assert (np.load(out) == TRIPLE["original"]).all()
    assert not answer.out
    refused = run("jobs", "result", "a", "--artifact", "orignal", "--out", out)
    assert (refused.code, "original, perturbation, adversarial" in refused.err) == (2, True)


def test_a_trained_network_is_told_wherever_the_job_is_shown(run, service):
    service.technique = "train_style"
    service.report = {"train_style": style_pb2.TrainStyleReport(model={"name": "painter", "version": 3})}
    service.jobs = {"operations/a": "SUCCEEDED"}
    assert "trained painter/3: convlens stylise PHOTO --model painter" in run("jobs", "show", "a").out


def test_a_folder_gets_a_file_of_a_sensible_name(run, service, photo, tmp_path):
    service.jobs = {"operations/0123456789": "SUCCEEDED"}
    assert run("jobs", "result", "0123456789", "--out", tmp_path).code == 0
    assert (tmp_path / "deepdream-01234567.png").exists()
    assert run("dream", photo, "--out", tmp_path).code == 0
    assert (tmp_path / "photo-dream.png").exists()


def test_a_job_that_was_waited_for_is_saved_unasked_and_overwrites_nothing(run, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photo-dream.png", "photo-dream-2.png"):
        assert f"wrote {name}" in run("dream", photo).err
    with Image.open("photo-dream-2.png") as image:
        assert image.size == (600, 600)
    before = set(tmp_path.iterdir())
    assert run("dream", photo, "--json").code == 0
    assert set(tmp_path.iterdir()) == before


def test_only_the_name_goes_to_stdout_with_no_wait(run, service, photo):
    answer = run("dream", photo, "--no-wait")
    assert answer.out.strip() in service.jobs
    assert answer.out.count("\n") == 1
    assert f"jobs result {answer.out.strip()} --out photo-dream.png" in answer.err


def test_a_receptive_field_is_drawn_with_the_threshold_that_it_was_measured_with():
    values = np.random.default_rng(3).random((9, 9)).astype(np.float32)
    for share in (0.2, 0.5, 0.9):
        size = np.float32(np.sqrt((values > share * values.max()).sum()))
        level = field.threshold(values, size)
        np.testing.assert_array_equal(values / values.max() > level, values > share * values.max())


def test_an_ended_job_is_not_asked_to_stop(run, service):
    service.jobs = {"operations/a": "SUCCEEDED", "operations/b": "CANCELLED"}
    for name, state in (("a", "SUCCEEDED"), ("b", "CANCELLED")):
        answer = run("jobs", "cancel", name)
        assert f"operations/{name} has ended already: {state}" in answer.err
    assert not [request for request in service.requests if "Cancel" in type(request).__name__]
