"""Seeds for generators: of 32 bits, of requests that carry 53; and one for each image."""

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


def own_seed(seed: int, image: bytes, what: str = "") -> int:
    """128 bits that follow from `seed`, the bytes of an image and `what` is drawn, and from nothing else.

    So an image's random numbers do not depend on the images beside it, nor on its place among them.
    """
    digest = hashlib.sha256(f"{seed} {what} ".encode() + hashlib.sha256(image).digest()).digest()
    return int.from_bytes(digest[:16], "little")
