"""Gradients of pictures that are too large for the network's memory, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import torch
from torch import Tensor

from convlens_workers.jobs.techniques.sizes import cut
from convlens_workers.techniques.parts.pixels import Size

Values = Mapping[str, Tensor]


def random_roll(size: Size, tile: int, jitter: int, rng: torch.Generator) -> Size:
    """Rows and columns to roll by before cutting, each uniform.

    Along an axis that is not cut: -jitter..jitter. Along one that is: 0 to a tile's side, so that the cuts
    come to lie anywhere, and none leaves a seam.
    """
    parts = [cut(length, tile) for length in size]
    ranges = [(0, cuts[0].stop + 1) if len(cuts) > 1 else (-jitter, jitter + 1) for cuts in parts]
    down, right = (int(torch.randint(low, high, (1,), generator=rng)) for low, high in ranges)
    return down, right


def tiled_gradient(
    image: Tensor, tile: int, evaluate: Callable[[Tensor], Values]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradient of the sum of all that `evaluate` gives for each tile of `image` (1, 3, H, W), and these sums.

    The graph of only one tile is alive at a time.
    """
    gradient, sums = torch.empty_like(image), dict[str, Tensor]()
    for rows, columns in product(*(cut(length, tile) for length in image.shape[2:])):
        part = image[:, :, rows, columns].clone().requires_grad_()
        with torch.enable_grad():
            values = evaluate(part)
            (gradient[:, :, rows, columns],) = torch.autograd.grad(
                torch.stack(list(values.values())).sum(), part
            )
        sums = {name: sums.get(name, 0) + value.detach() for name, value in values.items()}
    return gradient, sums
