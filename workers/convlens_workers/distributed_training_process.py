"""One of the processes that train a style network together; torchrun starts it.

    python -m torch.distributed.run --standalone --nproc-per-node=4 \\
        -m convlens_workers.distributed_training_process SPEC

SPEC is the path of a pickled `TrainingSpec`. The first process pickles to stdout, for each step, the step and
what PyTorch has said of operations that may give other bytes each time; or, instead of the next step, the
bytes of the google.rpc.Status that tells what went wrong. The spec names the technique's class, so that this
module knows no technique.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist

from convlens.errors import ConvLensError, to_status
from convlens_workers.devices import choose_device, inexact_operations
from convlens_workers.parent_death import die_with


def main() -> None:
    """Take part in the training that the spec describes, to its end."""
    die_with(os.getppid())
    stream = _stdout()
    spec = pickle.loads(Path(sys.argv[1]).read_bytes())
    device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}" if spec.device == "cuda" else spec.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL takes the current one.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        with inexact_operations() as inexact:
            for step in spec.steps(device):
                _report(stream, (step, tuple(inexact)))
    except ConvLensError as error:
        _report(stream, to_status(error).SerializeToString())
    finally:
        dist.destroy_process_group()


def _stdout() -> BinaryIO:
    """Standard output, for reports alone: what others print goes to stderr from now on."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


def _report(stream: BinaryIO, report: Any) -> None:
    """Write a report, in the first process only."""
    if dist.get_rank() == 0:
        pickle.dump(report, stream)
        stream.flush()


if __name__ == "__main__":
    main()
