"""`pip install convlens` alone is enough for the client: nothing heavy is even looked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "onnx", "onnxruntime", "redis", "rq", "opentelemetry"),
    *("convlens_server", "convlens_workers"),
}


@pytest.mark.parametrize("module", ["convlens_client", "convlens_client.cli", "convlens_client.rendering"])
def test_the_client_loads_nothing_heavy(module):
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not HEAVY & set(loaded.stdout.split())


def test_the_client_works_where_nothing_heavy_is_installed():
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from convlens_client.cli import main
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", script]
    shown = subprocess.run([*command, "classify", "--help"], capture_output=True, text=True, check=True)
    assert "images" in shown.stdout
    arguments = ["models", "add", "squeezenet1_0", "--weights", "w.safetensors"]
    refused = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "pip install 'convlens[export]'" in refused.stderr
    assert "Traceback" not in refused.stderr
