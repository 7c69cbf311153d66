"""Square: random search by squares of colour, which asks for no gradient.

Andriushchenko, Croce, Flammarion, Hein: Square Attack (2020), arXiv:1912.00049.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.v1 import attack_pb2
from convlens_models.measures.seeds import own_seed
from convlens_workers.techniques.parts.attacks import Classifier, groups
from convlens_workers.techniques.parts.balls import BALLS, TINY, length, moved
from convlens_workers.techniques.parts.ensemble import EnsembleBatch, Points
from convlens_workers.techniques.parts.loop import generator

SHARE: Final = 0.8
"""Of the picture that the first squares cover; the value of the ensemble (arXiv:2003.01690)."""
HALVINGS: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries out of 10,000 after which the share is halved."""
TILES: Final = 5
"""Squares along a side of the first change in L2."""

Propose = Callable[["Square", Tensor, Tensor, int, "Draws"], Tensor]
KEYS: Final = "keys"
"""SHA-256 of each image, (N, 32) bytes."""


class Draws:
    """Random numbers of one query: places are those of all images, signs each image's own.

    All follow from the seed, the number of the query and the image alone, so that an image fares alike alone,
    in a batch, and whoever has left the batch before.
    """

    def __init__(self, seed: int, number: int, keys: Tensor) -> None:
        self._shared = generator(own_seed(seed, b"", f"square {number}"))
        self._own = [generator(own_seed(seed, bytes(key), f"square {number}")) for key in keys.tolist()]

    def signs(self, shape: tuple[int, ...]) -> Tensor:
        """1 or -1, (N, *shape)."""
        return torch.stack([torch.randint(0, 2, shape, generator=own) for own in self._own]) * 2 - 1

    def place(self, last: int) -> int:
        """From 0 to `last`."""
        return int(torch.randint(0, last + 1, (), generator=self._shared))

    def window(self, height: int, width: int, side: int) -> tuple[EllipsisType, slice, slice]:
        """A square of `side` pixels in images of so many."""
        top, left = (self.place(extent - side) for extent in (height, width))
        return ..., slice(top, top + side), slice(left, left + side)

    def flipped(self) -> bool:
        """One or the other."""
        return bool(self.place(1))


@dataclass(frozen=True)
class Square:
    """A change of a random square is kept where it lowers the margin z_y - max z_other of the logits.

    The first query is the first change, stripes in L-infinity and a board of blobs in L2. Squares get smaller
    as the queries go on. All images have their square at the same place; their colours are their own.
    """

    classify: Classifier
    norm: int
    epsilon: float
    steps: int
    name: str = "square"

    def begin(self, batch: EnsembleBatch, _: torch.Generator) -> Points:
        """The images themselves, with a margin that anything improves on; no pass."""
        return {
            "found": batch.images,
            "wrong": torch.zeros_like(batch.labels, dtype=torch.bool),
            "passes": torch.zeros_like(batch.labels),
            "margin": torch.full_like(batch.images[:, 0, 0, 0], torch.inf),
            KEYS: keys(batch.images),
        }

    def advance(self, batch: EnsembleBatch, points: Points, number: int, rng: torch.Generator) -> Points:
        """Query `number`, counted from 1."""
        here = points["found"]
        first, later = PROPOSALS[self.norm]
        own = points[KEYS] if KEYS in points else keys(batch.images)  # Older checkpoints have none.
        draws = Draws(rng.initial_seed(), number, own)
        to = (first if number == 1 else later)(self, batch.images, here - batch.images, number, draws)
        ahead = moved(batch.images, to, BALLS[self.norm], self.epsilon)
        margin, wrong = self._probe(batch, ahead)
        better = (margin < points["margin"]) | wrong
        return {
            "found": torch.where(better.view(-1, 1, 1, 1), ahead, here),
            "wrong": wrong,
            "passes": torch.ones_like(batch.labels),
            "margin": torch.where(better, margin, points["margin"]),
            KEYS: own,
        }

    def side(self, number: int, height: int, width: int) -> int:
        """The side in pixels of the square of query `number`; its share of the area is halved on the way."""
        gone = number * 10_000 // self.steps
        share = SHARE / (1 << sum(gone > bound for bound in HALVINGS))
        return min(max(round(math.sqrt(share * height * width)), 1), min(height, width) - 1)

    def _probe(self, batch: EnsembleBatch, images: Tensor) -> tuple[Tensor, Tensor]:
        """The margins at `images`, and whether the network is wrong about them."""
        with torch.no_grad():
            scores = torch.cat([self.classify(images[part]) for part in groups(images)])
        label = scores.gather(1, batch.labels[:, None])
        others = scores.scatter(1, batch.labels[:, None], -torch.inf)
        margin = label[:, 0] - others.amax(1)
        return margin, scores.argmax(1) != batch.labels


def stripes(attack: Square, images: Tensor, _: Tensor, __: int, draws: Draws) -> Tensor:
    """L-infinity, first: columns of one pixel, each colour epsilon up or down."""
    signs = draws.signs((images.shape[1], 1, images.shape[3]))
    return images + attack.epsilon * signs.to(images)


def square(attack: Square, images: Tensor, change: Tensor, number: int, draws: Draws) -> Tensor:
    """L-infinity: within a square, each colour epsilon up or down."""
    height, width = images.shape[2:]
    side = attack.side(number, height, width)
    where, new = draws.window(height, width, side), change.clone()
    new[where] = attack.epsilon * draws.signs((images.shape[1], 1, 1)).to(images)
    return images + new


def board(attack: Square, images: Tensor, _: Tensor, __: int, draws: Draws) -> Tensor:
    """L2, first: blobs in a board of five by five, each colour up or down, as long as epsilon together."""
    height, width = images.shape[2:]
    side = max(1, min(height, width) // TILES)
    rows, columns = height // side, width // side
    signs = draws.signs((images.shape[1], rows, columns)).to(images)
    tiles = signs.repeat_interleave(side, 2).repeat_interleave(side, 3)
    tiles = tiles * blob(side, draws.flipped()).to(images).repeat(rows, columns)
    over, beside = height - rows * side, width - columns * side
    new = F.pad(tiles, (beside // 2, beside - beside // 2, over // 2, over - over // 2))
    return images + _stretched(new, attack.epsilon)


def exchange(attack: Square, images: Tensor, change: Tensor, number: int, draws: Draws) -> Tensor:
    """L2: one square's change goes to another, onto what is there, and with it what epsilon leaves."""
    height, width = images.shape[2:]
    side = max(attack.side(number, height, width), 3)
    side = min(side + (side + 1) % 2, height, width)
    first, second = (draws.window(height, width, side) for _ in range(2))
    there = torch.zeros_like(change[:1], dtype=torch.bool)
    there[first] = there[second] = True
    within = (change * there).square().sum((2, 3), keepdim=True)
    spare = (attack.epsilon**2 - length(change).square()).clamp_min(0) / change.shape[1]
    signs = draws.signs((images.shape[1], 1, 1)).to(images)
    old = change[first]
    new = blob(side, draws.flipped()).to(images) * signs + old / _energy(old).sqrt().clamp_min(TINY)
    moved_on = change.clone()
    moved_on[second] = 0
    moved_on[first] = new / _energy(new).sqrt().clamp_min(TINY) * (spare + within).sqrt()
    return images + _stretched(moved_on, attack.epsilon)


def blob(side: int, flipped: bool) -> Tensor:
    """Two hills side by side, one up, one down, of Euclidean length 1, (side, side).

    A hill in a rectangle is the sum of 1/j^2 for j from d + 1 to n + 1, d the distance from its middle by
    rows or columns, whichever is more, and n half its longer side (equation 2 of the paper).
    """
    half = side // 2
    hills = torch.cat([_hill(half, side), -_hill(side - half, side)])
    hills = hills / hills.square().sum().sqrt()
    return hills.T if flipped else hills


def _hill(rows: int, columns: int) -> Tensor:
    down = (torch.arange(rows) - rows // 2).abs()
    across = (torch.arange(columns) - columns // 2).abs()
    distance = torch.maximum(down[:, None], across)
    reach = max(rows, columns) // 2
    terms = 1 / torch.arange(1, reach + 2).square()
    heights = terms.flip(0).cumsum(0).flip(0)
    return heights[distance.clamp_max(reach)]


def _stretched(change: Tensor, epsilon: float) -> Tensor:
    """`change` scaled to a length of epsilon."""
    return change * (epsilon / length(change).clamp_min(TINY))


def _energy(values: Tensor) -> Tensor:
    """Sum of squares of each channel, (N, C, 1, 1)."""
    return values.square().sum((2, 3), keepdim=True)


def keys(images: Tensor) -> Tensor:
    """KEYS of images (N, 3, H, W)."""
    digests = [
        hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).digest() for image in images.detach()
    ]
    return torch.tensor([list(digest) for digest in digests], dtype=torch.uint8, device=images.device)


PROPOSALS: Final[Mapping[int, tuple[Propose, Propose]]] = {
    attack_pb2.NORM_UNSPECIFIED: (stripes, square),
    attack_pb2.NORM_LINF: (stripes, square),
    attack_pb2.NORM_L2: (board, exchange),
}
