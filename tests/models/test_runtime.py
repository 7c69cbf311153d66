"""ONNX Runtime as ConvLens imports it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["convlens_models.runtime", "convlens_server.backends.onnx_backend"])
def test_no_id_of_the_machine_is_kept(tmp_path, module):
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    there = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", f"import {module}"], env=kept | there, check=True)
    assert list(tmp_path.iterdir()) == []
