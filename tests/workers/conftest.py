"""What tests of techniques share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def one_thread() -> Iterator[None]:
    from support import techniques

    with techniques.one_thread():
        yield
