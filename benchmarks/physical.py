"""Attacks that a camera sees, on SqueezeNet 1.0 and photos: figures, and sheets to look at.

python -m benchmarks.physical expectation [--photos 10] [--epsilon 16] [--steps 20] [--out sheet.jpg]
python -m benchmarks.physical patch [--photos 60] [--held-out 10] [--steps 90] [--out sheet.jpg]
python -m benchmarks.physical printed [--photos 8] [--photographs 3] [--out sheet.jpg]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.smallest_change import DATA, NAME, finished, repository
from convlens.v1 import adversarial_pb2, image_pb2
from convlens_client import charts, rendering
from convlens_models.network import Network, load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import StoredModel
from convlens_server.request.validation import validate
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques import TECHNIQUES
from convlens_workers.techniques.base import Step, Task
from convlens_workers.techniques.parts import camera

TOASTER = 859
SHEET = 190
"""Height of the pictures of a sheet."""


class Bench:
    """A network, photos, and jobs on them."""

    def __init__(self, stored: StoredModel, network: Network) -> None:
        self.manifest = stored.manifest
        self.network = network
        self.photos = sorted((DATA / "photos").iterdir())

    def load(self, paths: list[Path], field: str = "images") -> dict[str, Tensor]:
        """Photos at the network's size, by their path in the request."""
        encoded = [image_pb2.Image(encoded=path.read_bytes()) for path in paths]
        return {
            f"{field}[{i}]": torch.tensor(to_input(one, self.manifest))[None] for i, one in enumerate(encoded)
        }

    def right(self, paths: list[Path], count: int) -> list[Path]:
        """The first `count` that the network has right."""
        found: list[Path] = []
        for path in paths:
            if len(found) < count:
                image = self.load([path])["images[0]"]
                found += [path] if int(self.network(image).argmax()) == int(path.name[:4]) else []
        return found

    def run(self, name: str, params: Any, images: dict[str, Tensor]) -> dict[str, Any]:
        """What a job on these images ends with."""
        for place in images:
            getattr(params, place.partition("[")[0]).add(encoded=b"decoded already")
        files, cpu = CollectionFiles("memory:///"), torch.device("cpu")
        checked = validate(params, self.manifest)
        steps = TECHNIQUES[name](Task(checked, self.network, self.manifest, images, 0, cpu, files), None)
        return dict(finished(steps, tell))


def tell(step: Step) -> None:
    """Every twentieth."""
    if step.number % 20 == 0:
        terms = {key: round(float(value), 4) for key, value in step.losses.items()}
        print(f"{step.number} of {step.total}: {terms}", flush=True)


def expectation(bench: Bench, options: argparse.Namespace) -> list[tuple[str, rendering.Picture]]:
    """Median p(target) over the angle, for random targets; pictures upright and at the last angle."""
    paths = bench.right(bench.photos[5::8], options.photos)
    targets = np.random.RandomState(0).randint(0, 1000, len(paths)).tolist()
    params = adversarial_pb2.ExpectationAttack(
        targets=targets,
        epsilon=options.epsilon / 255,
        steps=options.steps,
        samples=options.samples,
        angles=options.angles,
        held_out=options.held_out,
    )
    found = bench.run("expectation_attack", params, bench.load(paths))
    angles, medians = found["angles"], found["probabilities"].median(1).values
    for name, row in zip(("original", "naive", "adversarial"), medians, strict=True):
        print(name, [round(float(value), 3) for value in row])
    last = angles[-1:]
    turned = camera.turned(last, torch.ones(1), tuple(found["original"].shape[2:]))
    shown = []
    for name in ("original", "naive", "adversarial"):
        for angle, picture in (
            (0, found[name][:1]),
            (float(last), camera.seen(found[name][:1], turned)),
        ):
            p, index = bench.network(picture).softmax(1).max(1)
            label = bench.manifest.labels[int(index)]
            caption = f"{name}, {angle:.0f} degrees\n{label} {float(p):.0%}"
            shown.append((caption, rendering.photo(picture[0].numpy())))
    series = {"naive": medians[1].tolist(), "over transforms": medians[2].tolist()}
    ticks = [f"{angle:.0f}" for angle in angles]
    return [*shown, ("", charts.curves(series, ticks, "degrees; median p(target)"))]


def patch(bench: Bench, options: argparse.Namespace) -> list[tuple[str, rendering.Picture]]:
    """A patch that is to be a toaster; and on photos that it has not seen."""
    paths = [path for path in bench.photos if int(path.name[:4]) != TOASTER]
    images = bench.load(paths[::4][: options.photos])
    images |= bench.load(paths[2::20][: options.held_out], "held_out")
    params = adversarial_pb2.AdversarialPatch(
        target=TOASTER,
        size=options.size,
        steps=options.steps,
        samples=options.samples,
        learning_rate=options.learning_rate,
    )
    found = bench.run("adversarial_patch", params, images)
    print(found["patch"])
    disc = found["disc"][0] * found["mask"][0] + 1 - found["mask"][0]
    shown = [("patch", rendering.photo(disc.numpy()))]
    for picture in found["pictures"][:5]:
        p, index = bench.network(picture[None]).softmax(1).max(1)
        caption = f"{bench.manifest.labels[int(index)]} {float(p):.0%}"
        shown.append((caption, rendering.photo(picture.numpy())))
    return shown


def printed(bench: Bench, options: argparse.Namespace) -> list[tuple[str, rendering.Picture]]:
    """What a simulated camera undoes; and the first picture as it saw it."""
    paths = bench.right(bench.photos[3::8], options.photos)
    labels = [int(path.name[:4]) for path in paths]
    epsilons = [float(text) / 255 for text in options.epsilons.split(",")]
    params = adversarial_pb2.PrintedPhoto(labels=labels, epsilons=epsilons, photographs=options.photographs)
    images = bench.load(paths)
    found = bench.run("printed_photo", params, images)
    print(found["printed"])
    shown = [("as it is", rendering.photo(images["images[0]"][0].numpy()))]
    for attack, pictures in zip(("fgsm", "bim", "least likely"), found["photographs"], strict=True):
        shown.append((f"{attack} {epsilons[-1] * 255:.0f}/255", rendering.photo(pictures[-1].numpy())))
    return shown


OPTIONS = {
    expectation: {"photos": 10, "epsilon": 16.0, "steps": 20, "samples": 6, "angles": 13, "held-out": 4},
    patch: {
        "photos": 60,
        "held-out": 10,
        "steps": 90,
        "samples": 6,
        "size": 0.4,
        "learning-rate": 0.06,
    },
    printed: {"photos": 8, "photographs": 3, "epsilons": "8,16"},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for function, options in OPTIONS.items():
        command = commands.add_parser(function.__name__)
        command.set_defaults(measure=function)
        command.add_argument("--out", type=Path)
        for name, default in options.items():
            command.add_argument(f"--{name}", type=type(default), default=default)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stored = repository(Path(folder)).get(NAME)
        with torch.no_grad():
            pictures = asked.measure(Bench(stored, load_network(stored)), asked)
    if asked.out:
        Image.fromarray(rendering.sheet(pictures, SHEET)).save(asked.out, quality=88)


if __name__ == "__main__":
    main()
