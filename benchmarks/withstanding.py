"""What SqueezeNet 1.0 withstands, on photos that it has right, behind defences and against the ensemble; how
attacks carry from the embedded model to others of a repository and back, on drawings; what a server stands.

python -m benchmarks.withstanding defences [--photos 20] [--epsilon 1/255] [--steps 40] [--defence jpeg]
python -m benchmarks.withstanding ensemble [--photos 20] [--epsilon 1/255] [--steps 100] [--queries 5000]
python -m benchmarks.withstanding transfer --models FOLDER [--epsilon 8/255] [--steps 20]
python -m benchmarks.withstanding edge [--seconds 300]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from google.protobuf.message import Message

from benchmarks.edge import edge
from benchmarks.smallest_change import DATA, NAME, finished, repository
from convlens.v1 import adversarial_pb2, image_pb2
from convlens_client.cli.common import number
from convlens_models.network import load_network
from convlens_models.patterns.draw import LABELS, draw
from convlens_models.patterns.train import HELD_OUT
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.jobs.techniques.base import Resources, Submission
from convlens_workers.jobs.techniques.transfer_matrix import complete
from convlens_workers.networks import Networks
from convlens_workers.techniques import TECHNIQUES
from convlens_workers.techniques.base import Host, Results, Task
from convlens_workers.techniques.parts.attacks import classifier, predicted

DEFENCES: Mapping[str, Mapping[str, float]] = {
    "jpeg": {"quality": 75},
    "bit_depth": {"bits": 3},
    "total_variation": {"weight": 0.1},
}
Run = Callable[[str, Message], Results]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("defences", "ensemble", "transfer", "edge"))
    parser.add_argument("--epsilon", type=lambda text: number(text, "epsilon"), default=1 / 255)
    parser.add_argument("--defence", choices=DEFENCES)
    parser.add_argument("--models", type=Path, help="repository of the models beside the embedded one")
    for name, default in (("photos", 20), ("steps", None), ("targets", 9), ("queries", 5000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--keys", type=int, default=2, help="hostile tenants of the edge")
    options = parser.parse_args()
    if options.what == "edge":
        edge(options)
        return
    if options.what == "transfer":
        transfer(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        common, run = setting(Path(folder), options.photos)
        (defences if options.what == "defences" else ensemble)(run, common, options)


def setting(root: Path, count: int) -> tuple[dict[str, Any], Run]:
    """Fields that all messages share, and what runs a technique."""
    stored = repository(root).get(NAME)
    network, images, labels = load_network(stored), [], []
    for path in sorted((DATA / "photos").glob("*.jpg")):
        image = torch.tensor(to_input(image_pb2.Image(encoded=path.read_bytes()), stored.manifest))[None]
        if int(predicted(classifier(network), image)) == int(path.name[:4]):
            images.append(image)
            labels.append(int(path.name[:4]))
        if len(images) == count:
            break
    named = {f"images[{place}]": image for place, image in enumerate(images)}
    files, cpu = CollectionFiles("memory:///"), torch.device("cpu")

    def run(technique: str, params: Message) -> Results:
        task = Task(params, network, stored.manifest, named, 0, cpu, files)
        return finished(TECHNIQUES[technique](task, None))

    return {"images": [image_pb2.Image()] * len(images), "labels": labels}, run


def defences(run: Run, common: dict[str, Any], options: argparse.Namespace) -> None:
    print("| defence | defended | plain PGD, bare | plain PGD, defended | BPDA |")
    for name in [options.defence] if options.defence else DEFENCES:
        defence = adversarial_pb2.Defence(**{name: DEFENCES[name]})
        params = adversarial_pb2.DefenceAttack(
            **common, defence=defence, epsilon=options.epsilon, steps=options.steps or 40
        )
        found: Any = run("defence_attack", params)["defence"]
        shares = (
            found.clean_accuracy,
            found.undefended_accuracy,
            found.plain_accuracy,
            found.accuracy,
        )
        print("|", " | ".join([name, *(f"{share:.0%}" for share in shares)]), "|", flush=True)


def ensemble(run: Run, common: dict[str, Any], options: argparse.Namespace) -> None:
    params = adversarial_pb2.AttackEnsemble(
        **common,
        epsilon=options.epsilon,
        steps=options.steps or 100,
        targets=options.targets,
        queries=options.queries,
    )
    found: Any = run("attack_ensemble", params)["ensemble"]
    print("| attack | given | broken | passes | accuracy left |")
    for member in found.members:
        cells = (member.attack, member.attacked, member.broken, member.queries, f"{member.accuracy:.0%}")
        print("|", " | ".join(map(str, cells)), "|")


def transfer(options: argparse.Namespace) -> None:
    repository = ModelRepository(options.models)
    stored = repository.get()
    images = torch.cat([torch.from_numpy(draw(label, 2, (HELD_OUT, 9))) for label in LABELS])
    params = adversarial_pb2.TransferMatrix(
        images=[image_pb2.Image()] * len(images),
        labels=[index for index in range(len(LABELS)) for _ in range(2)],
        epsilon=options.epsilon,
        steps=options.steps or 20,
    )
    complete(Submission("transfer_matrix", params, stored.manifest, resources=Resources(repository)))
    cpu, files = torch.device("cpu"), CollectionFiles("memory:///")
    named = {f"images[{place}]": image[None] for place, image in enumerate(images)}
    host = Host(Networks(repository, cpu, limit=len(params.models)))
    task = Task(params, load_network(stored), stored.manifest, named, 0, cpu, files, host)
    found: Any = finished(TECHNIQUES["transfer_matrix"](task, None))
    report = found["transfer"]
    print("right without an attack:", " ".join(f"{share:.0%}" for share in report.accuracies))
    print("|", " | ".join(["attack on", *(model.name for model in report.models)]), "|")
    for model, row, beside in zip(report.models, found["matrix"], found["noise"], strict=True):
        cells = (f"{share:.0%} (noise {noise:.0%})" for share, noise in zip(row, beside, strict=True))
        print("|", " | ".join([model.name, *cells]), "|")


if __name__ == "__main__":
    main()
