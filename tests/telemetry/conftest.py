"""A picture."""

from __future__ import annotations

import numpy as np
import pytest

from convlens import wire


@pytest.fixture(scope="session")
def pixels() -> bytes:
    """A PNG file."""
    return wire.encode_image(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
