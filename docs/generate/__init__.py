"""The pages of `docs/reference/` that follow from the code: settings, RPCs and the command line.

``python -m docs.generate`` writes them; `tests/docs/test_reference.py` compares them with what is committed.
"""

from __future__ import annotations

from docs.generate import cli, rpcs, settings


def pages() -> dict[str, str]:
    """The text of each generated page by its path below `docs/`."""
    return {"reference/settings.md": settings.page(), "reference/cli.md": cli.page(), **rpcs.pages()}
