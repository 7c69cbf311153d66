"""Writes versions into the model repository: all of a version or nothing."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from convlens.errors import InvalidArgument
from convlens_models.manifest import NAME_PATTERN, Manifest, Task
from convlens_models.repository import MANIFEST, ModelRepository, sha256

ADDING: Final = ".adding-"
LEFT_AFTER: Final = 86400.0
"""Seconds after which nobody works in a staged folder any more."""
GRADIENT: Final = ".gradient"
"""How the Open Inference Protocol calls the gradient graph of a model."""


def check_name(name: str, field: str = "name") -> str:
    """`name`, if it can be that of a model. Raises InvalidArgument, which names `field`, otherwise."""
    if not re.fullmatch(NAME_PATTERN, name) or name.endswith(GRADIENT):
        allowed = "1 to 64 of a-z, 0-9, '.', '_' and '-', first a letter or digit, not ending in .gradient"
        raise InvalidArgument.of(field, name, allowed)
    return name


def check_kind(repository: ModelRepository, name: str, task: Task, field: str = "name") -> None:
    """Raise InvalidArgument if `name` is unusable, or that of a network for something else than `task`."""
    check_name(name, field)
    if repository.versions(name) and (other := repository.get(name).manifest.task) != task:
        raise InvalidArgument.of(field, name, f"another name: it is that of a network for {other}")


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """An empty folder in the repository, invisible to its readers; removed at the end unless published."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{ADDING}*"):  # By importers that were killed.
        if time.time() - left.stat().st_mtime > LEFT_AFTER:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=ADDING, dir=root))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """`manifest` with the digests of the files in `folder`."""
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    return manifest.model_copy(update={"files": files}).sealed()


def publish(folder: Path, root: Path, manifest: Manifest, *, once: bool = False) -> Manifest:
    """Make the staged `folder` the next version of `manifest.name` in one rename; the final manifest.

    With `once`, what the newest version already is becomes no further one.
    """
    for path in folder.iterdir():
        path.chmod(0o644)  # Some writers make private files; servers may run as another user.
    sealed = seal(folder, manifest)
    repository = ModelRepository(root)
    while True:
        version = max(repository.versions(manifest.name), default=0) + 1
        newest = repository.get(manifest.name).manifest if version > 1 and once else None
        if newest and newest.digest == sealed.digest:
            return newest
        final = sealed.model_copy(update={"version": version})
        # Servers that are older than a field read manifests that say nothing of it.
        plain = {"parent": "", "proof": None, "size_multiple": 1}
        unsaid = {name for name, value in plain.items() if getattr(final, name) == value}
        (folder / MANIFEST).write_text(final.model_dump_json(indent=1, exclude=unsaid) + "\n")
        target = root / manifest.name / str(version)
        target.parent.mkdir(exist_ok=True)
        try:
            folder.rename(target)
        except OSError:
            if not target.exists():
                raise
            continue  # Another process took this version meanwhile.
        return final
