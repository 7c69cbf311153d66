"""What an import did to a file that its users should know; the model carries it to its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx

from convlens_models.graphs.surgery import replace

KEY: Final = "convlens.notes"


def put(model: onnx.ModelProto, notes: Sequence[str]) -> None:
    """Make `notes`, sentences of one line, all that is noted of `model`."""
    replace(model.metadata_props, [entry for entry in model.metadata_props if entry.key != KEY])
    if notes:
        model.metadata_props.add(key=KEY, value="\n".join(notes))


def of(model: onnx.ModelProto) -> tuple[str, ...]:
    """What is noted of `model`."""
    return tuple(
        line for entry in model.metadata_props if entry.key == KEY for line in entry.value.split("\n")
    )
