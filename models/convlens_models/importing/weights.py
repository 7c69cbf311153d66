"""Reads a user's weights and holds them against what a network expects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from convlens.errors import InvalidArgument

FIELD: Final = "weights"
STATE_KEYS: Final = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
"""Under which checkpoints of trainings hold the network's state; the first that there is counts."""


def load_state(path: Path) -> dict[str, Tensor]:
    """The `state_dict` in a `.safetensors`, `.pth` or `.pt` file; never runs code from it.

    A checkpoint of a training is accepted that holds the state under one of `STATE_KEYS`, beside an
    optimiser's state, an epoch and other numbers and names. Floating-point tensors become float32.

    Raises:
        InvalidArgument: absent, damaged, of another kind, or without a state.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _load_pickle(path)
    except OSError as error:
        raise InvalidArgument.of(FIELD, str(path), f"a readable file ({error.strerror})") from error
    except _NoState as error:
        allowed = (
            f"a file with a state_dict, or with one under {', '.join(map(repr, STATE_KEYS))}; it has {error}"
        )
        raise InvalidArgument.of(FIELD, str(path), allowed) from error
    except Exception as error:  # PyTorch's unpickler raises whatever it stumbles over.
        # Its message, which recommends to load without protection, is left out.
        allowed = (
            "a whole .safetensors file, or a .pth or .pt file of tensors, numbers and names alone; "
            "of a whole module, as torch.save(model, ...) writes, save model.state_dict()"
        )
        raise InvalidArgument.of(FIELD, str(path), allowed) from error
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


class _NoState(ValueError):
    """A file that can be read and has no state; says what it has."""


def _load_pickle(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(loaded, Mapping):
        if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
            return dict(loaded)
        inner = [loaded[key] for key in STATE_KEYS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            raise _NoState(", ".join(map(repr, list(loaded)[:5])) or "nothing")
        loaded = inner[0]
    raise _NoState(f"a {type(loaded).__name__}")


def aligned(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`state` under the names of `expected`, where all its keys have one prefix too many.

    Wrappers put it there: "module." (DataParallel), "_orig_mod." (torch.compile), "model." (Lightning), or
    several of them.
    """
    if not expected or any(key in state for key in expected):
        return state
    tail = f".{next(iter(expected))}"
    for prefix in (key.removesuffix(tail) + "." for key in state if key.endswith(tail)):
        if all(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def with_head(state: Mapping[str, Tensor], head: str) -> Mapping[str, Tensor]:
    """`state` with the weight and bias of the layer `head`, however it was put on for other classes.

    They may be the one layer with weights in a Sequential, as behind a Dropout, and may lack the bias, which
    is zero then.

    Raises:
        InvalidArgument: there is no such layer, or several.
    """
    weight, bias = f"{head}.weight", f"{head}.bias"
    inner = sorted(key for key in state if re.fullmatch(rf"{re.escape(head)}\.\d+\.weight", key))
    if weight not in state and len(inner) == 1:
        start = inner[0].removesuffix("weight")
        state = {key.replace(start, f"{head}.", 1): value for key, value in state.items()}
    if weight not in state:
        found = f" has {len(inner)} layers" if inner else f"'s key {weight!r} is missing{_prefixed(state)}"
        text = f"{FIELD}: the head{found}; what is built otherwise comes in by --torch MODULE:FACTORY"
        raise InvalidArgument(text, field=FIELD)
    return {bias: torch.zeros(len(state[weight])), **state}


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
            text = f"{FIELD}: key {key!r} of shape {list(value.shape)} is missing{_prefixed(state)}"
            raise InvalidArgument(text, field=FIELD)
        if state[key].shape != value.shape:
            shape, wanted = list(state[key].shape), list(value.shape)
            raise InvalidArgument(f"{FIELD}: key {key!r} has shape {shape}: must be {wanted}", field=FIELD)
    if unexpected := [key for key in state if key not in expected]:
        shape = list(state[unexpected[0]].shape)
        raise InvalidArgument(f"{FIELD}: unexpected key {unexpected[0]!r} of shape {shape}", field=FIELD)


def _prefixed(state: Mapping[str, Tensor]) -> str:
    """What an error adds where all keys begin alike."""
    first = {key.split(".")[0] for key in state}
    return f"; all keys of the file begin with '{first.pop()}.'" if len(first) == 1 < len(state) else ""
