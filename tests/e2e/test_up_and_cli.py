"""A newcomer's first minutes: everything real, through the command line."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support.machine import start_up, stop_up

from convlens_client import LogProbability


def test_the_embedded_model_is_there(run):
    models = json.loads(run("models", "list", "--json").out)
    assert "patterns" in [model["name"] for model in models]
    shown = json.loads(run("models", "show", "--json").out)
    assert len(shown["labels"]) >= 40
    assert shown["parameters"] <= 1_500_000


def test_quick_calls_write_pictures_and_tensors(run, photo, tmp_path):
    size = json.loads(run("models", "show", "--json").out)["input_size"]
    layer = next(
        layer["name"]
        for layer in json.loads(run("models", "show", "--json").out)["layers"]
        if layer["kind"] == "Conv"
    )
    best = json.loads(run("classify", photo, "--top", 2, "--json").out)["predictions"]
    assert 0 < best[1]["probability"] <= best[0]["probability"] <= 1
    assert run("filters", "--out", tmp_path / "filters.png").code == 0
    assert run("activations", photo, "--layer", layer, "--out", tmp_path / "maps.jpg").code == 0
    for method in ("gradient", "guided-backprop", "deconvnet"):
        out = tmp_path / f"{method}.npy"
        shown = json.loads(run("saliency", photo, "--method", method, "--json", "--out", out).out)
        assert shown["class_index"] == best[0]["index"]
        assert np.abs(np.load(out)).max() > 0
        assert np.load(out).shape == (3, size, size)
    assert not np.allclose(np.load(tmp_path / "gradient.npy"), np.load(tmp_path / "deconvnet.npy"))
    neuron = run("saliency", photo, "--neuron", f"{layer}:3:2:1", "--out", tmp_path / "neuron.npy")
    assert neuron.code == 0
    assert np.count_nonzero(np.load(tmp_path / "neuron.npy")) < 3 * 40 * 40


def test_an_attack_keeps_to_its_epsilon_and_is_certified(run, photo, tmp_path):
    out = tmp_path / "adversarial.npy"
    certificate = json.loads(run("attack", photo, "--eps", "8/255", "--json", "--out", out).out)[
        "certificate"
    ]
    assert certificate["linf"] <= 8 / 255 + 1e-6
    assert certificate["success"] == (certificate["before"]["index"] != certificate["after"]["index"])
    run("attack", photo, "--show", "adversarial", "--out", tmp_path / "adversarial.png")
    again = json.loads(run("classify", tmp_path / "adversarial.png", "--resize", "keep", "--json").out)
    assert again["predictions"][0]["index"] == certificate["after_encoding"]["index"]
    assert again["predictions"][0]["probability"] == pytest.approx(
        certificate["after_encoding"]["probability"], rel=1e-4
    )


def test_pictures_that_the_server_does_not_take_are_seen_alike(run, photo, tmp_path):
    """A photo as PNG, TIFF, BMP and AVIF; and a class by its name, from Python and from the command line."""
    with Image.open(photo) as image:
        files = [tmp_path / f"a.{kind}" for kind in ("png", "tif", "bmp", "avif")]
        for file in files:
            image.save(file, quality=100) if file.suffix == ".avif" else image.save(file)
    answers = [json.loads(line) for line in run("classify", *files, "--json").out.splitlines()]
    best = [answer["predictions"][0] for answer in answers]
    assert len({each["index"] for each in best}) == 1
    for each in best[1:3]:
        assert each["probability"] == pytest.approx(best[0]["probability"], rel=1e-4)
    assert best[3]["probability"] == pytest.approx(best[0]["probability"], abs=0.05)


def test_classes_are_named_and_many_photos_are_split(client, photo):
    label = client.get_model().labels[3]
    named, numbered = (client.attribute(photo, target=LogProbability(each)) for each in (label, 3))
    assert named.values == numbered.values
    with Image.open(photo) as image:
        small = np.asarray(image.resize((96, 96)))
    answers = client.classify([small] * 70)
    assert len(answers) == 70
    assert len({answer.top.index for answer in answers}) == 1


def test_a_targeted_attack_goes_towards_its_class(client, photo):
    outcome = client.attack(photo, target=3, epsilon=1 / 255)
    before, after = (
        client.attribute(pixels, target=LogProbability(3)).values[0]
        for pixels in (outcome.original, outcome.adversarial)
    )
    assert after > before + 0.01
    (certificate,) = outcome.certificates
    assert certificate.success == (certificate.after.index == 3)


def test_a_dream_runs_to_its_end_and_is_found_again(run, photo, tmp_path):
    options = ["--size", 64, "--octaves", 2, "--steps", 4, "--seed", 3]
    assert run("dream", photo, *options, "--out", tmp_path / "dream.png").code == 0
    with Image.open(tmp_path / "dream.png") as image:
        assert image.size == (64, 64)
    job, *_ = json.loads(run("jobs", "list", "--json").out)
    assert job["metadata"]["state"] == "SUCCEEDED"
    assert job["metadata"]["step"] == job["metadata"]["total_steps"] == 8
    assert "SUCCEEDED" in run("jobs", "show", job["name"]).out
    assert run("jobs", "result", job["name"], "--out", tmp_path / "again.npy").code == 0
    again = np.load(tmp_path / "again.npy")
    assert again.shape[-3:] == (3, 64, 64)
    assert 0 <= again.min() < again.max() <= 1
    events = [json.loads(line) for line in run("jobs", "watch", job["name"], "--json").out.splitlines()]
    assert events[-1]["state"] == "SUCCEEDED"
    assert run("jobs", "delete", job["name"]).code == 0
    assert run("jobs", "show", job["name"]).code == 2


def test_a_dream_of_a_guide_zooms(run, photo, tmp_path):
    options = ["--size", 64, "--octaves", 1, "--steps", 2, "--tile", 64, "--frames", 3, "--guide", photo]
    assert run("dream", photo, *options, "--out", tmp_path / "zoom.webp").code == 0
    with Image.open(tmp_path / "zoom.webp") as video:
        assert (video.n_frames, video.size) == (3, (64, 64))
    job, *_ = json.loads(run("jobs", "list", "--json").out)
    options = ["--artifact", "frame.0001", "--out", tmp_path / "frame.png"]
    assert run("jobs", "result", job["name"], *options).code == 0
    with Image.open(tmp_path / "frame.png") as frame:
        assert frame.size == (64, 64)
    refused = run("dream", photo, "--size", 64, "--layer", "features.relu4_1", "--channel", 9999)
    assert refused.code != 0
    assert "deepdream.channels[0]" in refused.err


def test_the_same_seed_gives_the_same_dream(client, photo):
    dreams = [client.deepdream(photo, octaves=1, steps=3, seed=5, resize=48) for _ in range(2)]
    first, second = (dream.result(60) for dream in dreams)
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


LONG = ["--size", "128", "--steps", "2000"]


def test_ctrl_c_cancels_a_dream(machine, client, photo):
    command = [
        sys.executable,
        "-c",
        "from convlens_client.cli import main; main()",
        "dream",
        str(photo),
        *LONG,
    ]
    environment = {**os.environ, "CONVLENS_SERVER": machine.address}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        # Some steps later the command has the job's name, too, and listens to Ctrl-C.
        _until(lambda: any(job.metadata.step > 2 and not job.metadata.final for job in client.operations()))
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "cancelled after" in words
    _until(lambda: all(job.metadata.final for job in client.operations()))


def test_a_dream_left_alone_is_cancelled_later(run, photo):
    name = run("dream", photo, *LONG, "--no-wait").out.splitlines()[0]
    assert run("jobs", "cancel", name).code == 0
    waited = run("jobs", "wait", name, "--timeout", 30)
    assert waited.code == 1
    assert "CANCELLED" in waited.out
    assert run("jobs", "result", name).code == 1


def test_a_network_is_added_while_the_server_runs(run, data, tmp_path):
    source = data / "models"
    files = ["--weights", source / "squeezenet1_0.safetensors", "--labels", source / "imagenet_labels.tsv"]
    added = run("models", "add", "squeezenet1_0", *files)
    assert added.code == 0, added.err
    photo = sorted((data / "photos").iterdir())[7]
    with (source / "imagenet_labels.tsv").open() as table:
        names = [row[-1] for row in csv.reader(table, delimiter="\t")]
    best = json.loads(run("classify", photo, "--model", "squeezenet1_0", "--json").out)["predictions"]
    assert best[0]["label"] in names
    assert int(photo.name[:4]) in [prediction["index"] for prediction in best]
    refused = run("models", "add", "squeezenet1_0", "--weights", source / "imagenet_labels.tsv")
    assert refused.code == 2
    assert "Traceback" not in refused.err


def test_jobs_survive_a_restart(tmp_path, photo):
    from convlens_client import Client

    first = start_up(tmp_path)
    with Client(first.address) as client:
        job = client.deepdream(photo, octaves=1, steps=2000, resize=64)
        _until(lambda: not job.done() and job.metadata.step > 3)
    assert stop_up(first, signal.SIGTERM)[0] == 0
    second = start_up(tmp_path)
    with Client(second.address) as client:
        again = client.operation(job.name)
        assert again.metadata.step > 3
        _until(lambda: not again.done() and again.metadata.attempt == 2)
        again.cancel()
        assert again.wait(30).state == "CANCELLED"
    assert stop_up(second)[0] == 0


def _until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
