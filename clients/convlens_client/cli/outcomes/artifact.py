"""Any artifact of a job: read, drawn as far as it is a picture, and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convlens.errors import InvalidArgument, NotFound
from convlens_client import rendering
from convlens_client.cli.common import err, write
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


def names(operation: Operation) -> list[str]:
    """What the artifacts of a job are called: what it came to, then the pictures on the way."""
    state = operation.state
    return [artifact.name for artifact in (*state.artifacts, *state.metadata.artifacts)]


def file_for(operation: Operation, path: Path) -> str:
    """The artifact that is a file of the kind that `path` names, such as a video; "" where there is none."""
    wanted = path.suffix.lower()
    return next((name for name in names(operation) if wanted and Path(name).suffix.lower() == wanted), "")


def write_artifact(operation: Operation, name: str, path: Path) -> None:
    """Writes an artifact: the bytes of a file as they are, everything else as a picture or a tensor."""
    known = names(operation)
    if name not in known:
        raise NotFound(f"{operation.name} has no artifact {name!r}, but {', '.join(known)}", field="artifact")
    tensor = operation.artifact(name)
    if not ("." in name.rpartition("/")[2] and tensor.dtype == np.uint8):
        write(path, tensor, picture(tensor))
        return
    try:
        path.write_bytes(tensor.tobytes())
    except OSError as error:
        raise InvalidArgument.of("out", str(path), f"writable ({error.strerror})") from error
    err.print(f"wrote {path}")


def picture(tensor: Array) -> Picture:
    """A picture of any artifact: images ([N,] 3, H, W) in [0, 1], maps ([N,] H, W) from 0 up, numbers (N)."""
    if tensor.ndim == 1:
        return rendering.feature_maps(tensor)
    if tensor.ndim == 2:
        return rendering.heat(tensor, threshold=1.0)
    if tensor.ndim == 3 and len(tensor) == 3:
        return rendering.photo(tensor)
    return rendering.grid([picture(one) for one in tensor])
