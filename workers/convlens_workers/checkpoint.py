"""Checkpoints: a technique's state in the artifact store, as safetensors, named by its SHA-256.

Each says what it belongs to: the request, the model's files, and a fingerprint of code, libraries, device and
threads. One that does not fit is refused, and the job starts anew: going on from it would not give the same
bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np
import PIL
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from convlens.errors import DataLoss, NotFound
from convlens.v1 import job_pb2
from convlens_models.runtime import ort
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.techniques import SPECIFICATIONS
from convlens_workers.techniques.base import State

DECIDING: Final[Mapping[str, tuple[str, ...]]] = {
    "convlens": ("containers.py", "wire.py"),
    "convlens_models": (
        *("architectures/*.py", "attributions/*.py", "graphs/**/*.py", "measures/*.py", "vjp/**/*.py"),
        *("backend.py", "log_softmax.py", "manifest.py", "network.py", "preprocess.py"),
        *("redirected_relu.py", "repository.py", "runtime.py", "style_networks.py", "tensors.py"),
    ),
    "convlens_workers": (
        *("techniques/**/*.py", "jobs/techniques/**/*.py", "jobs/pictures.py", "collections/pooling.py"),
        *("device_process.py", "devices.py", "distributed_training_process.py", "networks.py"),
        *("onnx_network.py", "victims.py"),
    ),
}
"""The files of each package whose code decides the bytes of a result: how a request's pictures are read, the
techniques and their rules, the networks that they run, and what their values and gradients are computed by.
What only carries, stores or tells of them is not among them: a change of it leaves checkpoints usable."""

BESIDE: Final = ("request_id", "priority", "tags", "base", "resume", "save_every")
"""Fields of a request that say nothing of the result."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a state belongs to.

    Attributes:
        request: what was asked for, see `asked`.
        model: digest of the model's files.
        fingerprint: of code, libraries, device and threads, see `fingerprint`.
    """

    request: str
    model: str
    fingerprint: str


def asked(request: job_pb2.SubmitJobRequest) -> str:
    """A SHA-256 of what a request says of the result, but for the counts of steps that may grow."""
    said = job_pb2.SubmitJobRequest()
    said.CopyFrom(request)
    for field in BESIDE:
        said.ClearField(field)
    technique = said.WhichOneof("technique")
    if technique and (grows := SPECIFICATIONS[technique].grows):
        params = getattr(said, technique)
        for field in grows(params):
            params.ClearField(field)
    return hashlib.sha256(said.SerializeToString(deterministic=True)).hexdigest()


def fingerprint(device: torch.device) -> str:
    """A SHA-256 of all that decides the bytes of a result, beside request and model."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    versions = (torch.__version__, ort.__version__, np.__version__, PIL.__version__)
    parts = (_code(), versions, device.type, name, torch.get_num_threads())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@cache
def _code() -> str:
    return code_digest({name: Path(*import_module(name).__path__) for name in DECIDING})


def code_digest(folders: Mapping[str, Path]) -> str:
    """A SHA-256 of the names and contents of the `DECIDING` files, given the folder of each package."""
    files = [
        (name, str(path.relative_to(folders[name])), hashlib.sha256(path.read_bytes()).hexdigest())
        for name, patterns in DECIDING.items()
        for pattern in patterns
        for path in sorted(folders[name].glob(pattern))
    ]
    return hashlib.sha256(repr(files).encode()).hexdigest()


def save_state(store: ArtifactStore, operation: str, state: State, origin: Origin) -> str:
    """Store `state`, whole and synced; gives its SHA-256."""
    return store.put(operation, "checkpoints", save(_apart(state), metadata=asdict(origin)))


def _apart(state: State) -> State:
    """The state on the CPU, no two tensors in the same memory, which safetensors refuses."""
    tensors: State = {}
    known: set[int] = set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in known else tensor
        known.add(place)
    return tensors


def load_state(
    store: ArtifactStore, operation: str, digests: tuple[str, ...], origin: Origin
) -> State | None:
    """The newest of the checkpoints that is whole and fits, on the CPU; None where the job starts anew."""
    for digest in digests:
        try:
            data = store.get(operation, "checkpoints", digest)
            if _origin(data) == origin:
                return load(data)
            log.warning("checkpoint refused: it comes from elsewhere", extra={"operation": operation})
        except (NotFound, DataLoss, SafetensorError) as error:
            log.warning("checkpoint unreadable: %s", error, extra={"operation": operation})
    return None


def _origin(data: bytes) -> Origin:
    length = int.from_bytes(data[:8], "little")
    return Origin(**json.loads(data[8 : 8 + length])["__metadata__"])
