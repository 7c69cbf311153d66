"""A whole ConvLens in child processes, started as a person would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path


def start_up(folder: Path, *options: str) -> subprocess.Popen[str]:
    """`convlens up` with its data and models under `folder`; returns once it is ready."""
    command = [sys.executable, "-c", "from convlens_client.cli import main; main()", "up"]
    places = ["--listen", "127.0.0.1:0", "--data", str(folder / "data"), "--models", str(folder / "models")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CONVLENS_DEVICE": "cpu"}
    process = subprocess.Popen(
        [*command, *places, *options], stderr=subprocess.PIPE, text=True, env=environment
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.match(r"ready: ConvLens on ([^,]+),", line):
            process.address = found[1]
            return process
    raise AssertionError("".join(lines))


def stop_up(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str]:
    """Exit code and last words after a signal."""
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    return process.returncode, words
