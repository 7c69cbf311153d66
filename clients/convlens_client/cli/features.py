"""`convlens features`: vectors of a layer for any number of photos."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_client.cli.common import (
    Json,
    Model,
    Resize,
    Server,
    Tls,
    connect,
    emit,
    err,
    out,
    photos,
    resize,
)

SUFFIXES = (".npz", ".npy")


class Pooling(StrEnum):
    """How a map becomes a vector."""

    MEAN = "mean"
    MAX = "max"
    FLATTEN = "flatten"


def _check(path: Path | None) -> Path | None:
    if path is not None and (path.suffix not in SUFFIXES or not path.absolute().parent.is_dir()):
        raise InvalidArgument.of("out", str(path), "a .npz or .npy file in a folder that exists")
    return path


def features(
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)],
    *,
    layer: Annotated[str, typer.Option(help="Layer of the model.", show_default=False)],
    pooling: Annotated[Pooling, typer.Option(help="Over positions.")] = Pooling.MEAN,
    normalise: Annotated[bool, typer.Option("--normalise", help="Scale each vector to length 1.")] = False,
    file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=_check,
            help=".npz with names and features, or .npy with the features and a .txt with the names.",
        ),
    ] = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Write the feature vectors of photos; any number of them goes through in one stream."""
    names: list[str] = []
    vectors: list[NDArray[Any]] = []
    with connect(server, tls) as client:
        for name, vector in client.features(
            photos(images),
            layer,
            pooling=pooling.value,
            normalise=normalise,
            model=model,
            resize=resize(size),
        ):
            if json:
                emit({"image": name, "vector": vector.tolist()})
            names.append(name)
            vectors.append(vector)
    if len({len(vector) for vector in vectors}) > 1:
        raise InvalidArgument.of("resize", str(size), "one that gives all photos one size, with flatten")
    matrix = np.stack(vectors)
    if not json:
        out.print(f"{len(names)} vectors of {matrix.shape[1]} values")
    if file is not None:
        _write(file, names, matrix)


def _write(file: Path, names: list[str], matrix: NDArray[Any]) -> None:
    try:
        if file.suffix == ".npz":
            np.savez(file, names=np.array(names), features=matrix)
        else:
            np.save(file, matrix)
            file.with_suffix(".txt").write_text("".join(f"{name}\n" for name in names))
    except OSError as error:
        raise InvalidArgument.of("out", str(file), f"writable ({error.strerror})") from error
    err.print(f"wrote {file}")
