"""Puts the trained embedded model into the package: ``python -m convlens_models.importing.embed DIR``.

DIR holds the training's `weights.safetensors` and `labels.txt`. The embedded folder keeps the only copy of
the weights, and always one version.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import Manifest
from convlens_models.repository import EMBEDDED, EMBEDDED_MODEL, MANIFEST, WEIGHTS


def embed(trained: Path, target: Path = EMBEDDED) -> Manifest:
    """Make the network trained into the folder `trained` version 1 of the embedded model in `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        added = add_architecture(root, EMBEDDED_MODEL, trained / WEIGHTS, trained / "labels.txt")
        shutil.rmtree(target / EMBEDDED_MODEL, ignore_errors=True)
        folder = target / EMBEDDED_MODEL / "1"
        shutil.copytree(root / EMBEDDED_MODEL / str(added.version), folder)
    manifest = added.model_copy(update={"version": 1})  # It replaces the one before: no version after it.
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
    return manifest


if __name__ == "__main__":
    print(embed(Path(sys.argv[1])).model_dump_json(exclude={"layers", "labels"}, indent=1))
