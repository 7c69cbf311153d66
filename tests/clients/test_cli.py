"""How the command line fails, and commands that other packages bring."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import pytest
import typer

from convlens import errors
from convlens_client.cli import plugins

FAILURES = {
    "missing file": (("classify", "nowhere.png"), 2, "nowhere.png"),
    "unknown class": (("saliency", "{photo}", "--class", "zebra"), 2, "'zebra'"),
    "unclear neuron": (("saliency", "{photo}", "--neuron", "a"), 2, "LAYER:CHANNEL:Y:X"),
    "class and neuron": (("saliency", "{photo}", "--neuron", "a:1", "--log-prob"), 2, "without"),
    "nothing to visualise": (("visualise",), 2, "or --class"),
    "no number": (("attack", "{photo}", "--eps", "a lot"), 2, "8/255"),
    "no size": (("classify", "{photo}", "--resize", "8x"), 2, "HEIGHTxWIDTH"),
    "unknown ending": (("filters", "--out", "x.gif"), 2, ".npy"),
    "missing folder": (("filters", "--out", "nowhere/x.png"), 2, "folder"),
    "no such job": (("jobs", "show", "operations/none"), 2, "operations/none"),
}


@pytest.mark.parametrize(("arguments", "code", "text"), FAILURES.values(), ids=FAILURES)
def test_failures_are_one_line_and_a_code(run, photo, arguments, code, text):
    answer = run(*(argument.format(photo=photo) for argument in arguments))
    assert answer.code == code
    assert answer.err.count("\n") == 1
    assert text in answer.err
    assert not answer.out


@pytest.mark.parametrize(
    ("error", "code"), [(errors.NotFound("no model x"), 2), (errors.Internal("fault 12"), 1)]
)
def test_the_servers_failures_too(run, service, photo, error, code):
    service.failures = [error]
    answer = run("classify", photo)
    assert (answer.code, answer.err) == (code, f"convlens: {error}\n")


def test_a_server_that_is_not_there_brings_a_hint(run, photo):
    answer = run("classify", photo, "--server", "127.0.0.1:9")
    assert answer.code == 1
    assert "convlens up" in answer.err


def test_an_unknown_option_is_a_usage_error(run):
    assert run("classify", "--wat").code == 2


def _mount(monkeypatch, module):
    point = EntryPoint("models", "a_plugin:grow", plugins.GROUP)
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    app = typer.Typer()
    app.command()(lambda: None)
    group = typer.Typer()
    app.add_typer(group, name="models")
    plugins.mount({"models": group})
    return app


def test_another_packages_command_gets_its_arguments(monkeypatch, capsys):
    module = types.ModuleType("a_plugin")

    def grow(name: str, *, height: int = 1) -> None:
        """Grow."""
        print(name, height)

    grow.__annotations__ = {"name": str, "height": int}
    module.grow = grow
    app = _mount(monkeypatch, module)
    with pytest.raises(SystemExit) as caught:
        app(["models", "grow", "tree", "--height", "3"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == "tree 3\n"


def test_a_command_whose_libraries_are_missing_says_what_to_install(monkeypatch):
    app = _mount(monkeypatch, None)
    with pytest.raises(errors.FailedPrecondition, match=r"convlens\[export\]"):
        app(["models", "grow", "tree"])


def test_models_add_comes_from_the_models_package(run):
    answer = run("models", "add", "--help")
    assert answer.code == 0
    assert "--weights" in answer.out


def test_the_token_goes_with_every_call(run, service, photo, monkeypatch):
    seen = []
    service._note = lambda request, context: seen.append(dict(context.invocation_metadata())["authorization"])
    run("classify", photo, "--token", "abc")
    monkeypatch.setenv("CONVLENS_TOKEN", "def")
    run("classify", photo)
    assert seen == ["Bearer abc", "Bearer def"]


def test_a_certificate_is_read_and_asked_for_with_its_key(run, photo, tmp_path):
    (tmp_path / "c.pem").write_text("c")
    answer = run("classify", photo, "--certificate", tmp_path / "c.pem")
    assert (answer.code, "CONVLENS_CLIENT_KEY" in answer.err) == (2, True)
    answer = run("classify", photo, "--certificate", tmp_path / "c.pem", "--key", tmp_path / "none.pem")
    assert (answer.code, "none.pem" in answer.err) == (2, True)


def test_help_has_what_the_contract_says(run):
    shown = " ".join(run("saliency", "--help").out.split())
    assert "integrated-gradients: Points of the quadrature. [1 to 1000; default: 50]" in shown
    assert "smoothgrad: Seed of the noise. [default: 0] rise: Seed of the masks." in shown
    shown = " ".join(run("adversarial", "patch", "--help").out.split())
    assert (
        "--diameter <float> Side of the patch over the side of the picture. [0.05 to 1; default: 0.35]"
        in shown
    )
    assert "--rotation" in shown
    assert "--held-out" in shown


def test_numbers_may_be_fractions_and_zero_is_a_number(run, service, photo):
    options = ["--target", "dots", "--confidence", "0", "--learning-rate", "1/64", "--no-wait"]
    assert run("adversarial", "carlini-wagner", photo, *options).code == 0
    request = service.sent("SubmitJobRequest").carlini_wagner
    assert (request.HasField("confidence"), request.confidence, request.learning_rate) == (True, 0, 1 / 64)
    assert list(request.targets) == [1]
    assert not request.HasField("steps")
