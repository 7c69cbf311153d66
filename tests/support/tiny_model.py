"""A small network with random weights in a model repository, quick enough for hundreds of steps a second."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from convlens_models.architectures import ARCHITECTURES
from convlens_models.importing.importer import add_architecture

NAME = "tiny"


def add_tiny_model(root: Path) -> Path:
    """Add it to the repository `root`; gives that back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ARCHITECTURES["patterns"].build(5)
    root.mkdir(parents=True, exist_ok=True)
    weights = root / "weights.safetensors"
    save_file(module.state_dict(), weights)
    add_architecture(root, "patterns", weights, name=NAME)
    weights.unlink()
    return root
