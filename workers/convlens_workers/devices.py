"""The device that a process computes on, and whether what it computes comes out the same each time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def choose_device(name: str) -> torch.device:
    """The device called `name`; on CUDA, the same input shall give the same bytes where PyTorch can."""
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # Or else cuBLAS may choose another way each time.
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.zeros(1, device=device)  # Fails here, at the start, where there is no such device.
    return device


@contextmanager
def inexact_operations() -> Iterator[list[str]]:
    """PyTorch's warnings, within this context, of operations that may give other bytes each time."""
    texts: list[str] = []
    usual = warnings.showwarning

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if "deterministic" in str(message):
            texts.extend({str(message)}.difference(texts))  # It comes again in every step.
        else:
            usual(message, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=".*deterministic", category=UserWarning)
        warnings.showwarning = show
        yield texts
