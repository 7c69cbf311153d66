"""`convlens features`: vectors of a layer for any number of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_client.cli import completion
from convlens_client.cli.common import Photos, emit, err, out, photos_in
from convlens_client.cli.options import Shared, command
from convlens_client.features import PoolingName

SUFFIXES = (".npz", ".npy")


def _check(path: Path | None) -> Path | None:
    if path is not None and (path.suffix not in SUFFIXES or not path.absolute().parent.is_dir()):
        raise InvalidArgument.of("out", str(path), "a .npz or .npy file in a folder that exists")
    return path


@command("model", "resize", "json")
def features(
    given: Shared,
    images: Photos,
    *,
    layer: Annotated[
        str, typer.Option(autocompletion=completion.layers, help="Layer of the model.", show_default=False)
    ],
    pooling: Annotated[PoolingName, typer.Option(help="Over positions.")] = "mean",
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
    **parameters: Any,
) -> None:
    """Write the feature vectors of photos; any number of them goes through in one stream.

    Example: convlens features photos --layer features.relu2 --out vectors.npz
    """
    names: list[str] = []
    vectors: list[NDArray[Any]] = []
    paths = photos_in(images)
    for name, vector in given.client.features(
        paths, layer, pooling=pooling, normalise=normalise, **parameters
    ):
        if given.json:
            emit({"image": name, "vector": vector.tolist()})
        names.append(name)
        vectors.append(vector)
    if len({len(vector) for vector in vectors}) > 1:
        raise InvalidArgument.of(
            "resize", str(given.resize), "one that gives all photos one size, with flatten"
        )
    matrix = np.stack(vectors)
    if not given.json:
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
