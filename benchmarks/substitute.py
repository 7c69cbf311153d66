"""A copy of the embedded network by queries alone: what it says as the original does, and what it gives away.

python -m benchmarks.substitute [--seeds 19] [--rounds 6] [--epochs 10] [--queries 10000] [--seed 0]

Starts a server, asks it through gRPC as anybody could, and tells the agreement after each round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from convlens.v1 import adversarial_pb2, image_pb2
from convlens_models.network import load_network
from convlens_models.patterns.draw import LABELS, draw
from convlens_models.repository import ModelRepository
from convlens_server.request.validation import validate
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques.base import Host, Results, Task
from convlens_workers.techniques.substitute import substitute

HELD_OUT_OF_EACH = 10
SEED_DRAWINGS, HELD_OUT_DRAWINGS = (7, 0), (8, 0)
"""First numbers of the drawings' seeds; those that the network was trained on begin with 0."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=19, help="drawings of each class to begin with")
    for name in ("rounds", "epochs", "queries"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with serving() as address:
        results = run(task(options, address))
    print(results["substitute"])


def task(options: argparse.Namespace, address: str) -> Task[adversarial_pb2.Substitute]:
    stored = ModelRepository(None).get("patterns")
    drawings = {
        "images": drawn(options.seeds, SEED_DRAWINGS),
        "held_out": drawn(HELD_OUT_OF_EACH, HELD_OUT_DRAWINGS),
    }
    picture = image_pb2.Image(encoded=b"drawn here")
    params = adversarial_pb2.Substitute(
        **{name: [picture] * len(images) for name, images in drawings.items()},
        **{name: getattr(options, name) for name in ("rounds", "epochs", "queries")},
    )
    images = {f"{name}[{i}]": image[None] for name, some in drawings.items() for i, image in enumerate(some)}
    return Task(
        validate(params, stored.manifest),
        load_network(stored),
        stored.manifest,
        images,
        options.seed,
        torch.device("cpu"),
        CollectionFiles("memory:///"),
        Host(victims={"self": address}),
    )


def drawn(count: int, seed: tuple[int, int]) -> torch.Tensor:
    """Of each class, (classes x count, 3, 96, 96), 8 bit."""
    images = np.concatenate([draw(label, count, seed) for label in LABELS])
    return torch.from_numpy(np.rint(images * 255) / np.float32(255))


def run(task: Task[adversarial_pb2.Substitute]) -> Results:
    began, rounds, technique = time.monotonic(), 0, substitute(task)
    while True:
        try:
            agreement = next(technique).state["agreement"]
        except StopIteration as end:
            return end.value
        if len(agreement) > rounds:
            seconds = time.monotonic() - began
            print(f"round {rounds}: agreement {agreement[-1]:.1%} after {seconds:.0f} s", flush=True)
            rounds += 1


@contextmanager
def serving() -> Iterator[str]:
    settings = {"LISTEN": "127.0.0.1:0", "REDIS": "", "THREADS": "1", "LANES": "1", "LOG_LEVEL": "WARNING"}
    environment = os.environ | {f"CONVLENS_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "convlens_server"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split(" ready on ")[1].split()[0]
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
