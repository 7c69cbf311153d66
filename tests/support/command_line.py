"""The command line, run in this process."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from convlens_client import cli


def runner(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Runs a command line; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> SimpleNamespace:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        return SimpleNamespace(code=caught.value.code, **capsys.readouterr()._asdict())

    return run
