"""A small network to dream with."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_model import NAME

from convlens_models.network import Network, load_network
from convlens_models.repository import ModelRepository, StoredModel


@pytest.fixture(scope="module")
def stored(tiny_models: Path) -> StoredModel:
    return ModelRepository(tiny_models).get(NAME)


@pytest.fixture(scope="module")
def network(stored: StoredModel) -> Network:
    return load_network(stored)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For all of them."""
