"""`convlens models add`: networks into the model repository. PyTorch is imported only when it is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from convlens.errors import ConvLensError, InvalidArgument
from convlens.text import printable
from convlens_models.manifest import Manifest, Rgb
from convlens_models.repository import default_root


class InputRange(StrEnum):
    """Pixel values of black and white that an ONNX network speaks of."""

    UNIT = "0..1"
    BYTE = "0..255"


Arch = Annotated[
    str | None,
    typer.Argument(
        metavar="ARCH",
        help="Built-in architecture: alexnet, vgg16, vgg19, googlenet, inception_v3, squeezenet1_0, "
        "squeezenet1_1, resnet18, resnet50 or patterns; or fast_style, a style network.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Weights of ARCH, keys as torchvision's: .safetensors, .pth or .pt; no code in it runs. "
        "Of fast_style: ours, or those of TransformerNet in pytorch/examples."
    ),
]
Onnx = Annotated[Path | None, typer.Option(help="Instead of ARCH: a classifier as ONNX file, NCHW float32.")]
Labels = Annotated[
    Path | None, typer.Option(help="Class names: one a line, or TSV: name last, WordNet id before it.")
]
Name = Annotated[str | None, typer.Option(help="Name in the repository; by default that of ARCH.")]
TorchScript = Annotated[
    bool, typer.Option("--torchscript", help="Also store model.ts, and run the model by TorchScript.")
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="What the network wants subtracted; by default what ARCH's released weights want, and for ONNX "
        "ImageNet's mean, or nothing with 0..255.",
    ),
]
Std = Annotated[str | None, typer.Option(metavar="R,G,B", help="What it wants to be divided by; likewise.")]
Range = Annotated[InputRange, typer.Option(help="ONNX: pixel values of the network, --mean and --std.")]
Bgr = Annotated[bool, typer.Option("--bgr", help="ONNX: blue comes first (--mean and --std stay R,G,B).")]
Size = Annotated[
    int | None,
    typer.Option(min=8, max=4096, help="ONNX: side of the images; by default what the file says, else 224."),
]
Explain = Annotated[bool, typer.Option("--explain", help="ONNX: also tell what was decided, and why.")]
Models = Annotated[
    Path | None,
    typer.Option(
        envvar="CONVLENS_MODELS", help="Folder of the model repository; by default one of the user's own."
    ),
]


def add(
    arch: Arch = None,
    *,
    weights: Weights = None,
    onnx: Onnx = None,
    labels: Labels = None,
    name: Name = None,
    torchscript: TorchScript = False,
    mean: Mean = None,
    std: Std = None,
    input_range: Range = InputRange.UNIT,
    bgr: Bgr = False,
    input_size: Size = None,
    explain: Explain = False,
    models: Models = None,
) -> None:
    """Add a network to the model repository: ARCH with --weights, or --onnx with --name."""
    root = models or default_root()
    of_onnx = {"input_range": input_range, "bgr": bgr, "input_size": input_size}
    of_arch = {"arch": arch, "weights": weights, "torchscript": torchscript}
    try:
        normalisation = {"mean": _triple("--mean", mean), "std": _triple("--std", std)}
        shared = {"labels": labels, "name": name, **normalisation}
        if onnx is None:
            _refuse(of_onnx, "needs --onnx")
            manifest = _add_architecture(root, arch, weights, shared | {"torchscript": torchscript})
        else:
            _refuse(of_arch, "cannot go with --onnx")
            manifest = _add_onnx(root, onnx, shared | of_onnx)
    except (ConvLensError, OSError) as error:
        typer.echo(f"Error: {printable(str(error))}", err=True)
        raise typer.Exit(2) from error
    notes = manifest.proof.notes if explain and manifest.proof else ()
    for line in (*_summary(manifest, root).split("\n"), *(f"  {note}" for note in notes)):
        typer.echo(printable(line))


def _add_architecture(
    root: Path, arch: str | None, weights: Path | None, options: dict[str, Any]
) -> Manifest:
    if arch is None or weights is None:
        raise InvalidArgument("give ARCH and --weights FILE, or --onnx FILE and --name NAME")
    if arch == "fast_style":
        return _add_style(root, weights, options)
    from convlens_models.importing.importer import add_architecture  # noqa: PLC0415

    return add_architecture(root, arch, weights, **options)


def _add_style(root: Path, weights: Path, options: dict[str, Any]) -> Manifest:
    name = options.pop("name")
    _refuse(options, "cannot go with fast_style")
    from convlens_models.importing.style_import import add_style  # noqa: PLC0415
    from convlens_models.importing.weights import load_state  # noqa: PLC0415

    return add_style(root, load_state(weights), name or "fast_style")


def _add_onnx(root: Path, file: Path, options: dict[str, Any]) -> Manifest:
    if options["name"] is None:
        raise InvalidArgument("--onnx needs --name NAME")
    from convlens_models.importing.isolation import MEGABYTES, SECONDS, isolated  # noqa: PLC0415
    from convlens_models.importing.onnx_import import add_onnx  # noqa: PLC0415

    return isolated("--onnx", MEGABYTES, SECONDS, add_onnx, root, file, **options)


def _refuse(options: Mapping[str, object], why: str) -> None:
    for option, value in options.items():
        if value and value != InputRange.UNIT:
            shown = option.upper() if option == "arch" else f"--{option.replace('_', '-')}"
            raise InvalidArgument(f"{shown} {why}")


def _triple(option: str, text: str | None) -> Rgb | None:
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgument.of(option, text, "three numbers, such as 0.485,0.456,0.406") from None
    return red, green, blue


def _summary(manifest: Manifest, root: Path) -> str:
    folder = root / manifest.name / str(manifest.version)
    others = f"or from {manifest.min_size}{manifest.steps}" if manifest.dynamic_size else "only"
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    facts = f"{len(manifest.labels)} classes, {len(manifest.layers)} layers,"
    if manifest.task == "style":
        facts = "a style network,"
    return (
        f"added {manifest.name}/{manifest.version}: {manifest.architecture} for {manifest.engine}, "
        f"{facts} {manifest.parameters:,} parameters, "
        f"images of {manifest.input_size} px, {others}, {megabytes:.1f} MB in {folder}"
        + "".join(f"\n  {line}" for line in _proven(manifest))
    )


def _proven(manifest: Manifest) -> list[str]:
    """What its import has found and measured, a line each; nothing of a built-in architecture."""
    if (proof := manifest.proof) is None:
        return []
    kinds = Counter(layer.kind for layer in manifest.layers).most_common()
    sizes = ", ".join(f"{width} x {height}" for height, width in proof.sizes)
    slopes = "not measured: the file rounds" if proof.slopes is None else f"{proof.slopes:.1g} of its length"
    return [
        "layers: " + ", ".join(f"{count} {kind}" for kind, count in kinds),
        f"scores: {manifest.output}; {proof.scores:.1g} of the largest from the file's own, "
        f"in batches of {', '.join(map(str, proof.batches))}, at {sizes} px",
        f"gradient: {slopes} from the slopes of the file in float64",
    ]
