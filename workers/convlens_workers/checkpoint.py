"""Checkpoints: a technique's state in the artifact store, as safetensors, named by its SHA-256.

Each says what it belongs to: the request, the model's files, and a fingerprint of code, torch, device and
threads. One that does not fit is refused, and the job starts anew: going on from it would not give the same
bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from convlens.errors import DataLoss, NotFound
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.techniques.base import State

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a state belongs to."""

    request: str
    model: str
    fingerprint: str


def fingerprint(device: torch.device) -> str:
    """Of all that decides the bytes of a result, beside request and model."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    parts = (_code(), torch.__version__, device.type, name, torch.get_num_threads())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@cache
def _code() -> str:
    folder = Path(__file__).parent / "techniques"
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))).hexdigest()


def save_state(store: ArtifactStore, operation: str, state: State, origin: Origin) -> str:
    """Store `state`, whole and synced; gives its SHA-256."""
    return store.put(operation, "checkpoints", save(_apart(state), metadata=asdict(origin)))


def _apart(state: State) -> State:
    """The state on the CPU, no two tensors in the same memory, which safetensors refuses."""
    found: State = {}
    known: set[int] = set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in known else tensor
        known.add(place)
    return found


def load_state(
    store: ArtifactStore, operation: str, digests: tuple[str, ...], origin: Origin
) -> State | None:
    """The newest of the checkpoints that is whole and fits, on the CPU; None: start anew."""
    for digest in digests:
        try:
            data = store.get(operation, "checkpoints", digest)
            found = _origin(data)
            if found == origin:
                return load(data)
            log.warning("checkpoint refused: it comes from elsewhere", extra={"operation": operation})
        except (NotFound, DataLoss, SafetensorError) as error:
            log.warning("checkpoint unreadable: %s", error, extra={"operation": operation})
    return None


def _origin(data: bytes) -> Origin:
    length = int.from_bytes(data[:8], "little")
    return Origin(**json.loads(data[8 : 8 + length])["__metadata__"])
