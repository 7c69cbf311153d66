"""Model repositories for tests, made of the embedded model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from convlens_models.manifest import Manifest
from convlens_models.repository import MANIFEST, ModelRepository


def add_copy(root: Path, name: str, version: int = 1, **changes: Any) -> Manifest:
    """Put a copy of the embedded model into the repository `root`, with fields of its manifest changed."""
    stored = ModelRepository().get()
    folder = root / name / str(version)
    shutil.copytree(stored.path, folder, dirs_exist_ok=True)
    changed = {**stored.manifest.model_dump(), "name": name, "version": version, "digest": "", **changes}
    manifest = Manifest.model_validate(changed).sealed()
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json")))
    return manifest
