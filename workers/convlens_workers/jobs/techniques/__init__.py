"""What servers and workers know of each long technique: its rules, its cost, its preparation. Needs no torch.

Each arm of `SubmitJobRequest.technique` has a module of its name here, with its `SPECIFICATION`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from convlens.v1 import job_pb2
from convlens_workers.jobs.techniques.base import Specification

TECHNIQUE: Final = job_pb2.SubmitJobRequest.DESCRIPTOR.oneofs_by_name["technique"]
NAMES: Final = tuple(arm.name for arm in TECHNIQUE.fields)
SPECIFICATIONS: Final[Mapping[str, Specification]] = {
    name: import_module(f"{__name__}.{name}").SPECIFICATION for name in NAMES
}
