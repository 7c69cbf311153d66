"""Seeds of more than 32 bits."""

from __future__ import annotations

import pytest

from convlens_models.measures.seeds import folded


@pytest.mark.parametrize("seed", [0, 7, (1 << 32) - 1])
def test_a_seed_of_32_bits_stays_as_it_is(seed: int) -> None:
    assert folded(seed) == seed


def test_longer_ones_are_told_apart_by_all_their_bits() -> None:
    seeds = [5, *(5 + (1 << bit) for bit in range(32, 53))]
    assert len({folded(seed) for seed in seeds}) == len(seeds)
    assert all(folded(seed) < 1 << 32 for seed in seeds)
