"""How small a change is enough: L-BFGS towards random classes, beside FGSM, on SqueezeNet 1.0 and photos.

python -m benchmarks.smallest_change [--photos 20] [--searches 9] [--steps 50] [--initial-constant 0.01]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2, image_pb2
from convlens_models.importing.importer import add_architecture
from convlens_models.network import load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository, StoredModel
from convlens_workers.collections import CollectionFiles
from convlens_workers.techniques.base import Results, Step, Task
from convlens_workers.techniques.lbfgs_attack import lbfgs_attack
from convlens_workers.techniques.parts.attacks import (
    Classifier,
    classifier,
    cross_entropy,
    gradients,
    predicted,
)

NAME = "squeezenet1_0"
DATA = Path(os.environ.get("CONVLENS_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
EPSILONS = 2.0 ** np.arange(-3, 8) / 255


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("photos", 20), ("searches", 9), ("steps", 50), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--initial-constant", type=float, default=0.01)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stored = repository(Path(folder)).get(NAME)
        network = load_network(stored)
        measure(stored, network, options)


def repository(root: Path) -> ModelRepository:
    weights = DATA / "models" / f"{NAME}.safetensors"
    add_architecture(root, NAME, weights, DATA / "models" / "imagenet_labels.tsv")
    return ModelRepository(root)


def measure(stored: StoredModel, network: torch.nn.Module, options: argparse.Namespace) -> None:
    classify, rng = classifier(network), np.random.default_rng(options.seed)
    rows = []
    print("| photo | target | reached | in 8 bits | L2 | FGSM targeted | FGSM untargeted | passes |")
    for path in photos(options.photos):
        image = torch.tensor(to_input(image_pb2.Image(encoded=path.read_bytes()), stored.manifest))[None]
        before = int(predicted(classify, image))
        target = int(rng.choice([c for c in range(1000) if c not in (before, int(path.name[:4]))]))
        results = attack(stored, network, image, target, options)
        found = results["attack"].certificates[0]
        fgsm = [smallest(classify, image, target, True), smallest(classify, image, before, False)]
        rows.append((found.success, found.success_after_encoding, found.l2, *fgsm))
        cells = (path.stem, stored.manifest.labels[target], *rows[-1], found.queries)
        print("|", " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells), "|", flush=True)
    share, share8, l2, targeted, untargeted = np.array(rows, np.float64).T
    print(f"reached {share.mean():.0%}, after 8 bits {share8.mean():.0%}, mean L2 {l2.mean():.3f}")
    for name, values in (("targeted", targeted), ("untargeted", untargeted)):
        met = np.isfinite(values)
        print(
            f"FGSM {name}: reached {met.mean():.0%}; L2 there {values[met].mean():.3f}, "
            f"L-BFGS on the same photos {l2[met].mean():.3f}, smaller on {(l2 < values)[met].sum()}"
        )


def photos(count: int) -> list[Path]:
    paths = sorted((DATA / "photos").iterdir())
    return paths[:: len(paths) // count][:count]


def attack(
    stored: StoredModel, network: torch.nn.Module, image: Tensor, target: int, options: argparse.Namespace
) -> Results:
    params = adversarial_pb2.LbfgsAttack(
        images=[{}],
        targets=[target],
        searches=options.searches,
        steps=options.steps,
        initial_constant=options.initial_constant,
    )
    task = Task(
        params, network, stored.manifest, {"images[0]": image}, 0, image.device, CollectionFiles("memory:///")
    )
    return finished(lbfgs_attack(task))


def finished(
    technique: Generator[Step, None, Results], see: Callable[[Step], object] = lambda step: None
) -> Results:
    """What a technique ends with; `see` is shown its steps."""
    while True:
        try:
            see(next(technique))
        except StopIteration as end:
            results: Results = end.value
            return results


def smallest(classify: Classifier, image: Tensor, index: int, targeted: bool) -> float:
    """L2 of FGSM's change at the smallest epsilon that meets the goal in 8 bits; infinite where none does."""
    classes = torch.tensor([index])
    _, gradient = gradients(image, lambda some, _: cross_entropy(classify(some), classes))
    step = -gradient.sign() if targeted else gradient.sign()
    for epsilon in EPSILONS:
        changed = (image + float(epsilon) * step).clamp(0, 1)
        seen = predicted(classify, torch.cat([changed, (changed * 255).round() / 255]))
        if bool(((seen == index) == targeted).all()):
            return float(torch.linalg.vector_norm(changed - image))
    return float("inf")


if __name__ == "__main__":
    main()
