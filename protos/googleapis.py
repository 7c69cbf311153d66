"""Lays out googleapis-common-protos for protoc and buf: `python protos/googleapis.py FOLDER`.

The distribution carries google/longrunning/operations.proto under the name operations_proto.proto.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

RENAMED = {"operations_proto.proto": "operations.proto"}


def main(folder: Path) -> None:
    """Copy google/{longrunning,rpc,api} to `folder`, afresh."""
    shutil.rmtree(folder, ignore_errors=True)
    installed = Path(sysconfig.get_path("purelib"))
    for package in ("longrunning", "rpc", "api"):
        for source in (installed / "google" / package).rglob("*.proto"):
            target = folder / source.relative_to(installed)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target.with_name(RENAMED.get(source.name, source.name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
