"""A network that an administrator sends: taken in piece by piece, and proven in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Final, get_args

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens.v1 import model_pb2
from convlens_models.importing import publish
from convlens_models.importing.isolation import stoppable
from convlens_models.importing.upload import STYLE, SentFile, Upload, add_sent
from convlens_models.manifest import Manifest, OutputKind, Task
from convlens_models.repository import ModelRepository
from convlens_server.identity.principal import owner
from convlens_server.settings import ServerSettings

ONE_AT_A_TIME: Final = Lock()
"""Held while a network is proven: each may take all the memory that is meant for that."""
COLOURS: Final = 3
CHOICES: Final = {
    "input_range": ("0..1", "0..255"),
    "layout": ("nchw", "nhwc"),
    "output_kind": get_args(OutputKind),
}
"""What may be said of an ONNX file."""


class Adding:
    """A network on its way into the repository.

    Raises:
        InvalidArgument: what is told of it cannot be, or its files are larger than the server takes.
        FailedPrecondition: the repository cannot be written.
    """

    def __init__(self, root: Path | None, settings: ServerSettings, model: model_pb2.NewModel) -> None:
        if root is None:
            raise FailedPrecondition(
                "this server has no repository of its own: CONVLENS_MODELS names a folder"
            )
        self._root, self._settings = root, settings
        self._options = _options(model)
        task: Task = "style" if model.architecture == STYLE else "classification"
        publish.check_kind(ModelRepository(root), model.name, task, "model.name")
        files = [SentFile(file.name, file.bytes, file.digest) for file in model.files]
        most = settings.max_model_megabytes
        if (total := sum(file.bytes for file in files)) > most << 20:
            allowed = f"at most {most} MiB (CONVLENS_MAX_MODEL_MEGABYTES)"
            raise InvalidArgument.of("model.files", f"{total / (1 << 20):,.1f} MiB", allowed)
        key = owner().encode() + b"\0" + model.SerializeToString(deterministic=True)
        self._upload = Upload(root, key, files)

    def store(self, piece: model_pb2.ModelPiece) -> int:
        """Keep a piece; returns how many bytes of its file are there."""
        return self._upload.add(piece.file, piece.offset, piece.data)

    def publish(self, stopped: Callable[[], bool]) -> Manifest:
        """Prove the network, and make it the newest version of its name; blocks until then or `stopped`."""
        return self._upload.publish(lambda files: self._prove(stopped, files), stopped)

    def _prove(self, stopped: Callable[[], bool], files: list[Path]) -> Manifest:
        bounds = self._settings.import_megabytes, self._settings.import_seconds
        with ONE_AT_A_TIME:
            root = self._root.absolute()
            return stoppable(stopped, "model.files", *bounds, add_sent, root, files, **self._options)


def _options(model: model_pb2.NewModel) -> dict[str, Any]:
    """What the import is told beside the files."""
    for field in ("mean", "std"):
        if (numbers := list(getattr(model, field))) and len(numbers) != COLOURS:
            raise InvalidArgument.of(f"model.{field}", numbers, "none or three numbers: R, G, B")
    for field, choice in CHOICES.items():
        if (value := getattr(model, field)) and value not in choice:
            raise InvalidArgument.of(f"model.{field}", value, f"one of {', '.join(choice)}")
    onnx = {
        "bgr": model.bgr,
        "input_size": model.input_size if model.HasField("input_size") else None,
        **{field: getattr(model, field) or None for field in (*CHOICES, "output")},
    }
    if model.architecture and (told := [name for name, value in onnx.items() if value]):
        raise InvalidArgument.of(f"model.{told[0]}", onnx[told[0]], "left out with an architecture")
    return {
        "name": model.name,
        "architecture": model.architecture,
        "labels": model.labels,
        "mean": tuple(model.mean) or None,
        "std": tuple(model.std) or None,
        "onnx": onnx,
    }
