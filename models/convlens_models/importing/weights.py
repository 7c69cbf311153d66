"""Reads a user's weights and holds them against what a network expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from convlens.errors import InvalidArgument

FIELD = "weights"


def load_state(path: Path) -> dict[str, Tensor]:
    """The `state_dict` in a `.safetensors`, `.pth` or `.pt` file; never runs code from it.

    A checkpoint that holds the state under "state_dict" is accepted. Floating-point tensors become float32.

    Raises:
        InvalidArgument: absent, damaged, of another kind, or with anything but tensors in it.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _load_pickle(path)
    except OSError as error:
        raise InvalidArgument.of(FIELD, str(path), f"a readable file ({error.strerror})") from error
    except Exception as error:  # PyTorch's unpickler raises whatever it stumbles over.
        # Its message, which recommends to load without protection, is left out.
        allowed = "a whole .safetensors file, or a .pth or .pt file with a state_dict and nothing else"
        raise InvalidArgument.of(FIELD, str(path), allowed) from error
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _load_pickle(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError("not names and tensors")
    return dict(loaded)


def check_state(state: Mapping[str, Tensor], module: nn.Module, auxiliary: tuple[str, ...] = ()) -> None:
    """Raise InvalidArgument, which names the first key and shapes, unless `state` fits `module`.

    Args:
        auxiliary: prefixes of keys that may be missing, all of a prefix at once. Counters of batch norms may
            be missing as well, as old files have none.
    """
    check_keys(state, module.state_dict(), auxiliary)


def check_keys(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], auxiliary: tuple[str, ...] = ()
) -> None:
    """The same for the keys and shapes of `expected`."""
    optional = tuple(prefix for prefix in auxiliary if not any(key.startswith(prefix) for key in state))
    for key, value in expected.items():
        if key not in state:
            if key.startswith(optional or ("\0",)) or key.endswith("num_batches_tracked"):
                continue
            raise InvalidArgument(
                f"{FIELD}: key {key!r} of shape {list(value.shape)} is missing", field=FIELD
            )
        if state[key].shape != value.shape:
            shape, wanted = list(state[key].shape), list(value.shape)
            raise InvalidArgument(f"{FIELD}: key {key!r} has shape {shape}: must be {wanted}", field=FIELD)
    if unexpected := [key for key in state if key not in expected]:
        shape = list(state[unexpected[0]].shape)
        raise InvalidArgument(f"{FIELD}: unexpected key {unexpected[0]!r} of shape {shape}", field=FIELD)
