"""`convlens models add --server ...`: a network sent to a server, which proves it and publishes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from convlens.errors import InvalidArgument
from convlens_client.cli.common import err, out
from convlens_client.cli.options import Shared, command
from convlens_client.requests.model import add_model
from convlens_client.results import Model

Numbers = Annotated[str | None, typer.Option(metavar="R,G,B", help="As without --server.")]


def asks_server(arguments: Sequence[str]) -> bool:
    """Whether arguments of `convlens models add` mean a server and not a folder.

    What is typed counts before the environment; where nothing says which, it is the folder.
    """
    typed = {word.partition("=")[0] for word in arguments}
    if typed & {"--models", "--server"}:
        return "--models" not in typed
    return bool(os.environ.get("CONVLENS_SERVER")) and not os.environ.get("CONVLENS_MODELS")


@command("json", timeout=None)
def add(
    given: Shared,
    arch: Annotated[str, typer.Argument(metavar="[ARCH]", help="Architecture of the --weights.")] = "",
    *,
    weights: Annotated[Path | None, typer.Option(help="Weights of ARCH: .safetensors, .pth or .pt.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Instead of ARCH: a classifier as ONNX file.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="File of external data beside --onnx; repeat. FILE.data is taken unasked."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Class names: one a line, or TSV: name last, WordNet id before it.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name in the repository; by default that of ARCH.")] = "",
    mean: Numbers = None,
    std: Numbers = None,
    input_range: Annotated[str, typer.Option(help="ONNX: 0..1 or 0..255.")] = "",
    layout: Annotated[str, typer.Option(help="ONNX: where the channels are, nchw or nhwc.")] = "",
    bgr: Annotated[bool, typer.Option("--bgr", help="ONNX: blue comes first.")] = False,
    input_size: Annotated[int | None, typer.Option(help="ONNX: side of the images.")] = None,
    output: Annotated[str, typer.Option(metavar="NAME", help="ONNX: the output, of several.")] = "",
    output_kind: Annotated[
        str,
        typer.Option(help="ONNX: scores, probabilities, log-probabilities, sigmoid or multilabel."),
    ] = "",
) -> None:
    """Send a network to the server, which adds it to its repository; for administrators.

    Example: convlens models add --server 10.0.0.5:8500 --onnx net.onnx --name net --labels names.txt
    """
    file = onnx or weights
    if file is None or (onnx is None) == (not arch) or not (name or arch) or (onnx and weights):
        raise InvalidArgument("give ARCH and --weights FILE, or --onnx FILE and --name NAME")
    beside = onnx.with_name(f"{onnx.name}.data") if onnx and not data else None
    rpc = add_model(
        file,
        name or arch,
        data=data or ([beside] if beside and beside.exists() else []),
        architecture=arch,
        labels=labels,
        mean=_three("--mean", mean),
        std=_three("--std", std),
        input_range=input_range,
        layout=layout,
        bgr=bgr,
        input_size=input_size,
        output=output,
        output_kind=output_kind,
    )
    with Progress(console=err, disable=given.json) as progress:
        task = progress.add_task("sending", total=file.stat().st_size)
        for answer in given.client.follow(rpc):
            if isinstance(answer, int):
                progress.update(task, completed=answer)
    _tell(given, rpc.result())


def _tell(given: Shared, model: Model) -> None:
    if not given.emitted(model):
        what = f"{model.architecture}, {len(model.labels)} classes, from {model.output_kind or model.task}"
        out.print(f"added {model.name}/{model.version}: {what}, {model.parameters:,} parameters")


def _three(option: str, text: str | None) -> list[float]:
    """The numbers of an option. Raises InvalidArgument."""
    try:
        numbers = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        numbers = [0.0]
    if len(numbers) not in (0, 3):
        raise InvalidArgument.of(option, text, "three numbers, such as 0.485,0.456,0.406")
    return numbers
