"""Seeds for generators that take 32 bits, of requests that carry 53."""

from __future__ import annotations

import hashlib

BITS = 32


def folded(seed: int) -> int:
    """32 bits that follow from all of `seed`; a seed of 32 bits stays as it is.

    Of a longer one PyTorch's generator for the CPU would leave out the first bits; scikit-learn refuses it.
    """
    if seed < 1 << BITS:
        return seed
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[: BITS // 8], "little")
