"""Starts ConvLens in a folder of its own, plays every scene, and writes the page."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from convlens.errors import ConvLensError
from convlens_client.client import Client
from convlens_client.demo.page import Section, render
from convlens_client.demo.photos import load
from convlens_client.demo.scenes import SCENES, Stage
from convlens_client.up import Plan, running

TITLE = "ConvLens: what a convolutional network sees"
INTRODUCTION = (
    "Everything on this page came from a ConvLens server over gRPC, and the dream from a worker behind it. "
    "Times are of the whole call."
)


def play(address: str, folder: Path) -> list[Section]:
    """Every scene, with its pictures in `folder`."""
    sections = []
    with Client(address) as client:
        stage = Stage(client, client.get_model(), load(), folder)
        for number, (name, scene) in enumerate(SCENES.items(), 1):
            print(f"[{number}/{len(SCENES)}] {name} ...", flush=True)
            sections.append(scene(stage))
    return sections


def main() -> int:
    """Entry point; 1 when anything failed."""
    parser = argparse.ArgumentParser(prog="python -m convlens_client.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder of the page")
    folder = parser.parse_args().out
    start = time.monotonic()
    os.environ.setdefault("CONVLENS_INSTALLED_MODELS", "on")  # Into the demo's own repository.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="convlens-demo-") as scratch:
            print("starting Redis, the server and a worker ...", flush=True)
            plan = Plan("127.0.0.1:0", data=Path(scratch), models=Path(scratch) / "models")
            with running(plan) as machine:
                sections = play(machine.address, folder)
        (folder / "index.html").write_text(render(TITLE, INTRODUCTION, sections))
    except ConvLensError as error:
        print("\n  ".join([f"the demo failed: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 1
    print(f"done in {time.monotonic() - start:.0f} s: open {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
