"""`convlens keys new`: an API key for a tenant."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from convlens.errors import InvalidArgument
from convlens_server.identity.keys import KeyFile, issue


def new(
    file: Annotated[Path, typer.Argument(help="The server's CONVLENS_API_KEYS; made if need be.")],
    *,
    tenant: Annotated[str, typer.Option(help="Whose key it is.")],
    role: Annotated[list[str] | None, typer.Option(help='Role, as "admin"; repeat for several.')] = None,
    days: Annotated[float | None, typer.Option(help="Days until it expires; default: never.", min=0)] = None,
) -> None:
    """Make an API key, add its hash to the file, and print it: nobody can see it again."""
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    try:
        known = KeyFile.model_validate_json(file.read_bytes()) if file.exists() else KeyFile()
        key, kept = issue(tenant, frozenset(role or ()), expires)
        _write(file, KeyFile(keys=(*known.keys, kept)))
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidArgument.of(".".join(map(str, first["loc"])), first.get("input"), first["msg"]) from None
    except OSError as error:
        allowed = f"one that can be read and written ({error.strerror})"
        raise InvalidArgument.of("file", str(file), allowed) from error
    typer.echo(key)


def _write(file: Path, keys: KeyFile) -> None:
    """Write the file as a whole or not at all, for its owner alone to read."""
    with tempfile.NamedTemporaryFile("w", dir=file.resolve().parent, delete=False) as beside:
        beside.write(keys.model_dump_json(indent=2) + "\n")
    Path(beside.name).replace(file)
