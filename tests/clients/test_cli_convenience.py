"""What makes the command line pleasant: progress, examples, names of files, spellings, completion."""

from __future__ import annotations

import io
import re
import shlex

import pytest
from docs.generate.cli import commands
from rich.console import Console

from convlens.v1 import job_pb2
from convlens_client import cli
from convlens_client.cli.following import progress, told
from convlens_client.from_proto import from_proto
from convlens_client.requests import TECHNIQUES

COMMANDS = {command.name: command.command for command in commands()}


def metadata(**fields):
    return from_proto(job_pb2.JobMetadata(**fields))


@pytest.mark.parametrize("technique", ["deepdream", "style_transfer", "feature_visualisation"])
def test_progress_at_80_columns_tells_step_time_left_and_loss(technique):
    clock = [0.0]
    screen = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    line = progress(screen)
    line.get_time = lambda: clock[0]
    task = line.add_task(technique, total=None, losses="", time="")
    for step in range(0, 1001, 100):
        clock[0] += 10.0
        running = metadata(
            state=job_pb2.JOB_STATE_RUNNING,
            technique=technique,
            step=step,
            total_steps=3000,
            losses={"loss": 0.12345},
            device="cuda:0",
            remaining_seconds=200.4,
        )
        line.update(task, **told(running))
    screen.print(line.get_renderable())
    (shown,) = screen.file.getvalue().splitlines()
    assert len(shown) <= 80
    for words in (technique, "1000/3000", "03:20", "loss 0.1235"):
        assert words in shown


def test_progress_of_a_job_that_waits_tells_its_place():
    waiting = metadata(state=job_pb2.JOB_STATE_QUEUED, technique="texture", queue_position=3)
    assert told(waiting)["description"] == "texture queued (3 ahead)"


def test_the_list_tells_what_is_known_of_jobs_that_wait(run, service, monkeypatch):
    def waiting(state, step=0):
        return job_pb2.JobMetadata(
            state=job_pb2.JOB_STATE_QUEUED, total_steps=512, queue_position=2, expected_seconds=75
        )

    monkeypatch.setattr("support.fake_service.metadata", waiting)
    service.jobs = {"operations/a": "QUEUED"}
    shown = run("jobs", "list").out
    for words in ("QUEUED (2 ahead)", "0/512", "75 s"):
        assert words in shown


def test_a_priority_goes_with_any_job(run, service, photo, client):
    for command in (("dream", photo), ("adversarial", "lbfgs", photo, "--target", "dots")):
        assert run(*command, "--priority", "high", "--no-wait").code == 0
        assert service.requests[-1].priority == job_pb2.PRIORITY_HIGH
    client.texture(photo, priority="low")
    assert service.requests[-1].priority == job_pb2.PRIORITY_LOW
    client.texture(photo)
    assert service.requests[-1].priority == job_pb2.PRIORITY_NORMAL


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_has_one_name_in_both_spellings(run, service, photo, client, name):
    dashed = name.replace("_", "-")
    for spelling in (name, dashed):
        answer = run("saliency", photo, "--method", spelling)
        assert answer.code == 0, answer
        client.attribute(photo, spelling)
        client.attribute_all(photo, [(spelling, None)])
    attributes = [r for r in service.requests if type(r).__name__ == "AttributeRequest"]
    assert {r.attributions[0].WhichOneof("technique") for r in attributes} == {name}
    assert len(attributes) == 6


def test_options_have_both_spellings_too(run, service, photo):
    assert run("texture", photo, "--max_pooling", "--no_wait").code == 0
    assert service.requests[-1].texture.max_pooling


NAMES = {
    "photo-fgsm.png": ("attack", "{photo}"),
    "photo-grad-cam.png": ("saliency", "{photo}", "--method", "grad-cam"),
    "photo-a.png": ("activations", "{photo}", "--layer", "a"),
    "first-filters.png": ("filters",),
    "a-b-3-patterns.png": ("units", "pattern", "{photo}", "--layer", "a/b", "--channel", "3"),
    "a-3-field.png": ("units", "field", "{photo}", "--layer", "a", "--channel", "3"),
    "photo-wave.png": ("stylise", "{photo}", "--model", "wave"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_gets_a_file_of_a_sensible_name(run, photo, tmp_path, name):
    (tmp_path / "made").mkdir()
    command = [word.format(photo=photo) for word in NAMES[name]]
    assert run(*command, "--out", tmp_path / "made").code == 0
    assert [path.name for path in (tmp_path / "made").iterdir()] == [name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_that_parses(run, name, monkeypatch):
    monkeypatch.setenv("CONVLENS_MODELS", "models")  # Else `models add` is about the server.
    shown = " ".join(run(*name.split()[1:], "--help").out.split())
    example = re.search(r"Example: (convlens [^\n]+?)(?= Arguments:| Options:|$)", shown)
    assert example, shown
    assert example[1].startswith(f"{name} ") or example[1] == name
    arguments = shlex.split(example[1])[len(name.split()) :]
    COMMANDS[name].make_context(name, arguments)


def completed(capsys, monkeypatch, line):
    """What bash is offered for the last word of a line."""
    monkeypatch.setenv("_CONVLENS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit):
        cli.app([], prog_name="convlens")
    return [text for text in capsys.readouterr().out.splitlines() if text]


COMPLETIONS = {
    "convlens classify a.jpg --model pat": ["patterns"],
    "convlens models show pa": ["patterns"],
    "convlens saliency a.jpg --class d": ["dots"],
    "convlens attack a.jpg --target wide": ["wide checks"],
    "convlens adversarial lbfgs a.jpg --target s": ["stripes"],
    "convlens visualise --class f": ["fine checks"],
    "convlens activations a.jpg --layer f": ["features.0"],
    "convlens dream a.jpg --layer f": ["features.0"],
    "convlens saliency a.jpg --class zebra": [],
}


@pytest.mark.parametrize("line", COMPLETIONS)
def test_the_shell_completes_what_the_server_knows(run, address, capsys, monkeypatch, line):
    assert sorted(set(completed(capsys, monkeypatch, line))) == COMPLETIONS[line]


def test_the_shell_completes_nothing_where_no_server_is(capsys, monkeypatch):
    monkeypatch.setenv("CONVLENS_SERVER", "127.0.0.1:9")
    assert completed(capsys, monkeypatch, "convlens classify a.jpg --model p") == []
