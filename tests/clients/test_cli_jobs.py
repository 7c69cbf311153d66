"""Jobs from the command line against a made-up server: left alone, listed, followed, cancelled."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import numpy as np
from PIL import Image
from support.fake_service import DREAM

from convlens.v1 import job_pb2


def test_a_dream_can_be_left_alone_and_found_again(run, service, photo, tmp_path):
    name = run("dream", photo, "--no-wait").out.splitlines()[0]
    assert name in run("jobs", "list").out
    assert "QUEUED" in run("jobs", "show", name).out
    assert run("jobs", "result", name, "--out", str(tmp_path / "d.png")).code == 0
    with Image.open(tmp_path / "d.png") as image:
        assert image.size == (600, 600)
    assert "image" in run("jobs", "result", name).out
    assert json.loads(run("jobs", "show", name, "--json").out)["metadata"]["state"] == "SUCCEEDED"
    assert run("jobs", "delete", name).code == 0
    assert run("jobs", "show", name).code == 2


def test_what_is_doubtful_about_a_result_is_said_with_it(run, service, photo, tmp_path):
    service.result.descent.first_loss = 0.5
    service.result.warnings.append("the loss went from 0.5 to 0.49")
    found = run("texture", photo, "--out", str(tmp_path / "t.png"))
    assert found.code == 0
    assert "warning: the loss went from 0.5 to 0.49" in found.err
    name = run("texture", photo, "--no-wait").out.splitlines()[0]
    assert "warning" in run("jobs", "result", name, "--out", str(tmp_path / "t.png")).err
    assert "warning    the loss went from 0.5" in run("jobs", "show", name).out
    state = json.loads(run("jobs", "show", name, "--json").out)
    assert (state["descent"]["first_loss"], state["warnings"]) == (0.5, ["the loss went from 0.5 to 0.49"])


def test_lists_are_filtered(run, service):
    assert run("jobs", "list", "--state", "running", "--technique", "deepdream").code == 0
    assert service.sent("ListOperationsRequest").filter == "state=RUNNING AND technique=deepdream"


def test_a_priority_without_a_worker_is_told(run, service, photo, monkeypatch):
    waiting = job_pb2.JobMetadata(state=job_pb2.JOB_STATE_QUEUED, priority=job_pb2.PRIORITY_HIGH)
    monkeypatch.setattr("support.fake_service.metadata", lambda *_: waiting)
    told = "no worker serves priority high: the job waits until one does"
    assert told not in run("dream", photo, "--no-wait").err
    service.workers = 0
    assert told in run("dream", photo, "--no-wait").err
    waiting.priority = job_pb2.PRIORITY_NORMAL
    assert told not in run("dream", photo, "--no-wait").err


def test_how_the_queues_stand(run):
    shown = run("jobs", "stats").out
    for words in ("convlens-high (high): 2 waiting, 0 running, 1 workers", "7.5 s", "retried    3", "2e+09"):
        assert words in shown
    (queue,) = json.loads(run("jobs", "stats", "--json").out)
    assert (queue["priority"], queue["queued"], queue["counters"]) == ("HIGH", 2, {"retried": 3})


def test_a_dream_as_json_is_a_line_an_event_and_the_job(run, photo):
    lines = [json.loads(line) for line in run("dream", photo, "--json").out.splitlines()]
    assert [line["step"] for line in lines[:-1]] == [0, 1, 2, 3, 4, 4]
    assert lines[-1]["artifacts"][0]["shape"] == list(DREAM.shape)


def test_ctrl_c_cancels_the_dream(run, service, photo):
    def interrupt(replies, context):
        yield next(replies)
        os.kill(os.getpid(), signal.SIGINT)
        while "CANCELLED" not in service.jobs.values():
            time.sleep(0.01)
        service._stream = stream
        service.breaks = [0]
        yield from stream(replies, context)

    stream, service._stream = service._stream, interrupt
    answer = run("dream", photo)
    assert answer.code == 130
    assert "cancelled after" in answer.err
    assert set(service.jobs.values()) == {"CANCELLED"}


def test_cancelled_and_failed_jobs_make_wait_watch_and_result_fail(run, photo, tmp_path):
    name = run("dream", photo, "--no-wait").out.splitlines()[0]
    assert run("jobs", "cancel", name).code == 0
    for command in (("wait",), ("watch",), ("result", "--out", str(tmp_path / "x.png"))):
        answer = run("jobs", command[0], name, *command[1:])
        assert answer.code == 1
        assert "the job was cancelled" in answer.err
    assert not (tmp_path / "x.png").exists()


def test_a_job_is_shown_with_what_it_was_asked_for(run, service, photo):
    service.pictures = [job_pb2.JobPicture(path="deepdream.image", name="photo.png", sha256="ab" * 32)]
    options = (
        "--layer",
        "features.3",
        "--octaves",
        "2",
        "--step-size",
        "0.7",
        "--seed",
        "5",
        "--tag",
        "who=ana",
    )
    name = run("dream", photo, *options, "--save-every", "2", "--no-wait").out.strip()
    sent = service.sent("SubmitJobRequest")
    assert (dict(sent.tags), sent.save_every, sent.deepdream.image.name) == ({"who": "ana"}, 2, "photo.png")
    shown = run("jobs", "show", name).out
    for line in (
        "seed       5",
        "layers     features.3",
        "options    octaves 2, step_size 0.7",
        f"pictures   image photo.png, SHA-256 {'ab' * 32}",
        "tags       who=ana",
    ):
        assert line in shown, line
    request = json.loads(run("jobs", "show", name, "--json").out)["request"]
    assert (request["technique"], request["seed"], request["tags"]) == ("deepdream", 5, {"who": "ana"})
    assert request["parameters"]["layers"] == ["features.3"]
    assert "who=ana" in run("jobs", "list", "--tag", "who=ana").out
    assert service.sent("ListOperationsRequest").filter == "tags.who=ana"
    assert run("jobs", "list", "--tag", "who").code == 2


def test_a_job_is_run_again_and_gone_on_from_without_its_pictures(run, service, photo):
    name = run("dream", photo, "--no-wait").out.strip()
    service.requests.clear()
    assert run("jobs", "rerun", name, "--seed", "7", "--steps", "3", "--no-wait").code == 0
    again = service.sent("SubmitJobRequest")
    assert (again.base, again.seed, again.resume) == (name, 7, "")
    assert again.deepdream == job_pb2.DeepDream(steps=3)
    service.requests.clear()
    assert run("jobs", "resume", name.removeprefix("operations/"), "--no-wait").code == 0
    more = service.sent("SubmitJobRequest")
    assert (more.resume, more.base, more.WhichOneof("technique")) == (name, "", None)
    assert "first_steps" in run("jobs", "resume", name, "--first-steps", "9").err


def test_pictures_on_the_way_are_written_beside_the_result(run, service, photo, tmp_path):
    picture = np.full((1, 3, 8, 10), 0.5, np.float32)
    service.on_the_way = {"step.000002": picture, "step.000004": picture}
    assert run("dream", photo, "--save-every", "2", "--out", str(tmp_path / "d.png")).code == 0
    names = ["d-step.000002.png", "d-step.000004.png", "d.png"]
    assert sorted(path.name for path in tmp_path.glob("d*")) == names
    read = [
        request.artifact for request in service.requests if isinstance(request, job_pb2.ReadArtifactRequest)
    ]
    assert read == ["step.000002", "step.000004", "image"]


def test_a_cancelled_job_says_how_to_fetch_its_picture_and_go_on(run, service, photo, tmp_path):
    service.end = "CANCELLED"
    service.on_the_way = {"so_far": np.full((1, 3, 8, 10), 0.5, np.float32)}
    answer = run("dream", photo, "--out", str(tmp_path / "d.png"))
    assert answer.code == 1
    (name,) = service.jobs
    assert f"convlens jobs result {name} --artifact so_far --out {tmp_path / 'd.png'}" in answer.err
    assert f"convlens jobs resume {name}" in answer.err
    assert run("jobs", "result", name, "--artifact", "so_far", "--out", str(tmp_path / "f.png")).code == 0
    with Image.open(tmp_path / "f.png") as image:
        assert image.size == (10, 8)


def test_the_picture_so_far_may_come_after_the_end(run, service, photo, tmp_path):
    service.end, service.resumable = "CANCELLED", True
    name = run("dream", photo, "--no-wait").out.strip()
    run("jobs", "wait", name)
    picture = {"so_far": np.full((1, 3, 8, 10), 0.5, np.float32)}
    late = threading.Timer(0.5, lambda: service.on_the_way.update(picture))
    late.start()
    assert run("jobs", "result", name, "--artifact", "so_far", "--out", str(tmp_path / "f.png")).code == 0
    late.join()
    assert (tmp_path / "f.png").exists()
    assert run("jobs", "result", name, "--artifact", "other", "--out", str(tmp_path / "g.png")).code == 1
