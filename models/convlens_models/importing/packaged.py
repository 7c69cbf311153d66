"""Imports the preferred model from its package: `python -m convlens_models.importing.packaged DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

from convlens.errors import ConvLensError, FailedPrecondition
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import Manifest
from convlens_models.packaged import weights_of
from convlens_models.repository import PREFERRED_MODEL


def add_preferred(root: Path) -> Manifest:
    """The preferred model, added to the repository in the folder `root`."""
    weights = weights_of(PREFERRED_MODEL)
    if weights is None:
        raise FailedPrecondition(f"the package with the weights of {PREFERRED_MODEL} is not installed")
    return add_architecture(root, PREFERRED_MODEL, weights, Path("imagenet"))


if __name__ == "__main__":
    try:
        add_preferred(Path(sys.argv[1]))
    except ConvLensError as error:
        sys.exit(str(error))
