"""What the shell completes by asking the server: models, classes, layers; nothing where it is slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import typer

from convlens.errors import ConvLensError
from convlens_client.client import Client

SECONDS: Final = 1.0
"""How long a shell waits for an answer."""


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Models by name."""
    return _begun(ctx, incomplete, lambda client: (model.name for model in client.list_models()))


def classes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Classes of the model that the command names, by label; those that share one are left out."""

    def labels(client: Client) -> Iterable[str]:
        known = client.get_model(_given(ctx, "model")).labels
        return (label for label in known if known.count(label) == 1)

    return _begun(ctx, incomplete, labels)


def layers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Layers of the model that the command names."""
    return _begun(ctx, incomplete, lambda client: client.get_model(_given(ctx, "model")).layer_names)


def _begun(ctx: typer.Context, incomplete: str, ask: Callable[[Client], Iterable[str]]) -> list[str]:
    """What the server knows that begins with what is typed, in any case."""
    identity = {name: _given(ctx, name) or None for name in ("token", "certificate", "key")}
    try:
        with Client(
            _given(ctx, "server"),
            tls=bool(ctx.params.get("tls")) or None,
            timeout=SECONDS,
            patience=0,
            **identity,
        ) as client:
            return [name for name in ask(client) if name.casefold().startswith(incomplete.casefold())]
    except ConvLensError:
        return []


def _given(ctx: typer.Context, name: str) -> str:
    return str(ctx.params.get(name) or "")
