"""Models that are fetched: with the digest that was named, and nowhere but into their folder."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.manifests import KIT


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server over the test's folder."""
    handler = partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _fetch(url: str, digest: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(KIT / "components" / "models-fetch" / "fetch.py"), str(folder)],
        check=False,
        env=os.environ | {"URL": url, "SHA256": digest},
        capture_output=True,
        text=True,
    )


def _tar(name: str) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as models:
        entry = tarfile.TarInfo(name)
        entry.size = 4
        models.addfile(entry, io.BytesIO(b"json"))
    return body.getvalue()


def test_models_come_only_with_the_digest_that_was_named(tmp_path: Path, web: str) -> None:
    body = _tar("net/1/manifest.json")
    (tmp_path / "models.tar").write_bytes(body)
    (folder := tmp_path / "models").mkdir()
    refused = _fetch(f"{web}/models.tar", "0" * 64, folder)
    assert refused.returncode == 1
    assert hashlib.sha256(body).hexdigest() in refused.stderr
    assert list(folder.iterdir()) == []
    taken = _fetch(f"{web}/models.tar", hashlib.sha256(body).hexdigest(), folder)
    assert taken.returncode == 0, taken.stderr
    assert (folder / "net" / "1" / "manifest.json").read_bytes() == b"json"


def test_models_stay_in_their_folder(tmp_path: Path, web: str) -> None:
    body = _tar("../escaped")
    (tmp_path / "models.tar").write_bytes(body)
    (folder := tmp_path / "models").mkdir()
    assert _fetch(f"{web}/models.tar", hashlib.sha256(body).hexdigest(), folder).returncode == 1
    assert not (tmp_path / "escaped").exists()
