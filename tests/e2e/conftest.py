"""One `convlens up` on free ports, with everything real, for all tests of this folder."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.command_line import runner
from support.machine import start_up, stop_up

from convlens_client import Client


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    """The folder and address of a running machine."""
    folder = tmp_path_factory.mktemp("machine")
    process = start_up(folder)
    yield SimpleNamespace(folder=folder, address=process.address)
    assert stop_up(process) == (0, "draining ...\nstopped\n")


@pytest.fixture
def client(machine):
    with Client(machine.address) as client:
        yield client


@pytest.fixture
def run(machine, monkeypatch, capsys, tmp_path_factory):
    """Runs a command line against the machine, in a folder of its own."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    monkeypatch.setenv("CONVLENS_SERVER", machine.address)
    monkeypatch.setenv("CONVLENS_MODELS", str(machine.folder / "models"))
    return runner(capsys)


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A photo of a person, as a file."""
    from skimage import data
    from skimage.io import imsave

    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    imsave(path, data.astronaut()[:256, 100:356], check_contrast=False)
    return path
