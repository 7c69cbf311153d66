"""The model repository, and how networks come into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from convlens_models.manifest import Manifest


def add(module: nn.Module, name: str, *, models: Path | None = None, **options: Any) -> Manifest:
    """Add a classifier in PyTorch to the model repository, from where one works with it, such as a notebook.

    Args:
        module: float32 images (N, 3, H, W) to scores (N, classes); it stays as it is.
        name: in the repository; the newest version of it.
        models: folder of the repository; None: the user's own, or what `CONVLENS_MODELS` says.
        options: labels, mean, std, input_range, bgr, input_size, as of `importing.onnx_import.add_onnx`.

    Raises:
        InvalidArgument: what `importing.from_torch.add_module` raises.
    """
    from convlens_models.importing.from_torch import add_module  # noqa: PLC0415 - PyTorch, where it is needed.
    from convlens_models.repository import default_root  # noqa: PLC0415

    return add_module(module, name, root=models or default_root(), **options)
