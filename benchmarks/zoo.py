"""Other people's networks by other people's exporters: what comes in, and how right it is.

python -m benchmarks.zoo [FAMILY ...] [--exporter tracing] [--exporter torch.export] [--resume zoo.json]

Walks the smallest network of each family of timm and torchvision, which must be installed (they bring their
own PyTorch, so the environment is one of its own). Weights are random; batch norms have the statistics of two
passes in training. Each is exported by a default call of each exporter and imported as a user would. Prints a
row a file: how it ended, the scores' and the gradient's error, and the seconds of both. The gradient is held
against float64's in PyTorch, and so is PyTorch's own in float32; float64's autograd itself against a finite
difference. Rows are kept in the file of --resume, and not computed again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.zoo_families import FAMILIES
from convlens.errors import ConvLensError
from convlens_models.graphs import autodiff
from convlens_models.importing import verify
from convlens_models.importing.isolation import MEGABYTES, isolated
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.manifest import INPUT, Manifest
from convlens_models.repository import ModelRepository

EXPORTERS: Final = {"tracing": False, "torch.export": True}
CLASSES: Final = 10
SECONDS: Final = 600.0
PICTURES: Final = 4
"""On how many the gradient may be tried: it changes much where one rectifier's input is rounded past 0."""
PLAIN: Final = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@dataclass
class Row:
    """What became of one file.

    Attributes:
        outcome: "right", "refused", "wrong" or "not exported".
        scores: largest error of the logits, of their largest.
        gradient, theirs: error of the gradient's Euclidean norm, ours and PyTorch's in float32.
        check: of float64's autograd against a finite difference along a random direction.
        whole: whether the last map sees the whole picture.
    """

    family: str
    network: str
    exporter: str
    outcome: str = ""
    why: str = ""
    scores: float = 0
    gradient: float = 0
    theirs: float = 0
    check: float = 0
    layers: int = 0
    any_size: bool = False
    export_seconds: float = 0
    import_seconds: float = 0


def build(name: str) -> tuple[nn.Module, int]:
    """A network, trained on nothing but the statistics of its batch norms, and the side of its images."""
    torch.manual_seed(0)
    library, network = name.split(":")
    if library == "timm":
        import timm  # noqa: PLC0415

        module: nn.Module = timm.create_model(network, num_classes=CLASSES)
        side: int = module.default_cfg["input_size"][1]  # type: ignore[index, assignment]
    else:
        import torchvision  # noqa: PLC0415

        module = torchvision.models.get_model(network, weights=None, num_classes=CLASSES)
        side = 299 if network == "inception_v3" else 224
    module.train()
    with torch.no_grad():
        for _ in range(2):
            module(torch.rand(4, 3, side, side))
    return module.eval().requires_grad_(False), side


def walk(family: str, exporters: list[str]) -> Iterator[Row]:
    """The rows of one family."""
    name = FAMILIES[family]
    module, side = build(name)
    for exporter in exporters:
        row = Row(family, name, exporter)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "net.onnx"
            began = time.perf_counter()
            try:
                export(module, file, side, EXPORTERS[exporter])
            except Exception as error:  # Exporters raise whatever they stumble over.
                row.outcome, row.why = "not exported", f"{type(error).__name__}: {error}".splitlines()[0]
            row.export_seconds = time.perf_counter() - began
            if not row.outcome:
                try_out(row, module, file, side, Path(folder) / "models")
        yield row


def export(module: nn.Module, file: Path, side: int, dynamo: bool) -> None:
    """A default call of PyTorch's exporter, on one image."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.rand(1, 3, side, side),), file, dynamo=dynamo)


def try_out(row: Row, module: nn.Module, file: Path, side: int, models: Path) -> None:
    """Import the file, and hold what is served against the module."""
    began = time.perf_counter()
    try:
        manifest = isolated("file", MEGABYTES, SECONDS, add_onnx, models, file, "net", **PLAIN)
    except ConvLensError as error:
        row.outcome, row.why = "refused", str(error)
        return
    finally:
        row.import_seconds = time.perf_counter() - began
    row.layers, row.any_size = len(manifest.layers), manifest.dynamic_size
    double = copy.deepcopy(module).double()
    for seed in range(PICTURES):
        image = np.random.default_rng(seed).random((1, 3, side, side), np.float32)
        scores, gradient = served(models, manifest, image)
        _, theirs = in_torch(module, image)
        expected, exact = in_torch(double, image.astype(np.float64))
        size = np.linalg.norm(exact)
        row.scores = max(row.scores, float(np.abs(scores - expected).max() / np.abs(expected).max()))
        row.gradient = float(np.linalg.norm(gradient - exact) / size)
        row.theirs = float(np.linalg.norm(theirs - exact) / size)
        row.check = difference(double, image, exact)
        if row.gradient < max(1e-4, 3 * row.theirs):
            break
    right = row.scores < 1e-4 and row.gradient < max(1e-4, 3 * row.theirs)
    row.outcome = "right" if right else "wrong"


def served(models: Path, manifest: Manifest, image: NDArray[np.float32]) -> list[NDArray[Any]]:
    """The scores, and the gradient of the first of them, of a stored network."""
    stored = ModelRepository(models).get(manifest.name)
    cotangent = np.eye(1, len(manifest.labels), dtype=np.float32)
    graph = autodiff.differentiate(stored.forward(), manifest.output, shape=(1, *image.shape[2:]))
    names = [manifest.output, autodiff.IMAGE_GRADIENT]
    return verify.run(graph, stored.path, names, {INPUT: image, autodiff.COTANGENT: cotangent})


def in_torch(module: nn.Module, image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same of the module, at the image's precision."""
    images = torch.from_numpy(image).requires_grad_()
    scores = module(images)
    scores[0, 0].backward()
    assert images.grad is not None
    return scores.detach().numpy(), images.grad.numpy()


def difference(module: nn.Module, image: NDArray[np.float32], gradient: NDArray[np.float64]) -> float:
    """Error of the gradient along itself, against a central difference of a module in float64."""
    direction = gradient / np.linalg.norm(gradient)
    step = 1e-6

    def score(sign: int) -> float:
        moved: Tensor = torch.from_numpy(image + sign * step * direction)
        with torch.no_grad():
            return float(module(moved)[0, 0])

    slope = (score(1) - score(-1)) / (2 * step)
    return abs(float((gradient * direction).sum()) - slope) / abs(slope)


def table(rows: list[Row]) -> str:
    """The rows in Markdown, below how many of each outcome there are."""
    counts = {
        exporter: {
            outcome: sum(row.outcome == outcome for row in rows if row.exporter == exporter)
            for outcome in ("right", "refused", "wrong", "not exported")
        }
        for exporter in EXPORTERS
    }
    lines = [
        f"{exporter}: {', '.join(f'{n} {name}' for name, n in of.items())}" for exporter, of in counts.items()
    ]
    lines += [
        "",
        "| family | network | exporter | | scores | gradient | PyTorch's | layers | sizes | export, import |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        shown = row.outcome if not row.why else f"{row.outcome}: {row.why[:90]}"
        figures = f"{row.scores:.0e} | {row.gradient:.0e} | {row.theirs:.0e} | {row.layers} "
        figures += f"| {'any' if row.any_size else 'one'}"
        if row.outcome not in ("right", "wrong"):
            figures = " | | | |"
        seconds = f"{row.export_seconds:.0f} s, {row.import_seconds:.0f} s"
        lines.append(f"| {row.family} | {row.network} | {row.exporter} | {shown} | {figures} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    """Walk the families that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", choices=[[], *FAMILIES], metavar="FAMILY")
    parser.add_argument("--exporter", action="append", choices=EXPORTERS, help="by default both")
    parser.add_argument("--resume", type=Path, default=Path("zoo.json"), help="where rows are kept")
    arguments = parser.parse_args()
    exporters = arguments.exporter or list(EXPORTERS)
    logging.disable(logging.WARNING)
    rows = (
        [Row(**each) for each in json.loads(arguments.resume.read_text())]
        if arguments.resume.exists()
        else []
    )
    known = {(row.family, row.exporter) for row in rows}
    for family in arguments.families or FAMILIES:
        if wanted := [exporter for exporter in exporters if (family, exporter) not in known]:
            try:
                found = list(walk(family, wanted))
            except Exception as error:  # A library's network that cannot be built here.
                found = [
                    Row(family, FAMILIES[family], each, "not exported", str(error)[:200]) for each in wanted
                ]
            for row in found:
                rows.append(row)
                print(*(f"{key}={value}" for key, value in asdict(row).items() if value), flush=True)
            partial = arguments.resume.with_suffix(".new")
            partial.write_text(json.dumps([asdict(row) for row in rows], indent=1))
            partial.replace(arguments.resume)
    print(table(rows))


if __name__ == "__main__":
    main()
