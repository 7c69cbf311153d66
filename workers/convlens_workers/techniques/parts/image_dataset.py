"""Data sets of images to learn from, a folder's or a collection's; each image is read when it is drawn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from convlens import wire
from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_workers.collections import CollectionFiles

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
WHERE: Final = 3
"""Numbers that choose a crop: its side, its top and its left edge, each in [0, 1)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageDataset:
    """Pictures by number. One that cannot be read is logged once, and the next one takes its place.

    Attributes:
        names: of all of them, for messages.
        read: gives the file of one.
        what: the name of the data set, for messages.
        bad: the names of those that could not be read.

    Raises:
        FailedPrecondition: there are no pictures; the same later, where none can be read.
    """

    names: Sequence[str]
    read: Callable[[str], bytes]
    what: str
    bad: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.names:
            raise FailedPrecondition(f"{self.what} has no pictures to learn from")

    def __len__(self) -> int:
        return len(self.names)

    def crop(self, number: int, side: int, where: Sequence[float]) -> Tensor:
        """A square of picture `number`, (3, side, side) in [0, 1].

        It is between `side` and the picture's short side large, evenly distributed, and scaled to `side`;
        smaller pictures are enlarged.
        """
        pixels = self._pixels(number)
        height, width = pixels.shape[:2]
        short = min(height, width)
        low = min(side, short)
        size = low + int(where[0] * (short - low + 1))
        top, left = int(where[1] * (height - size + 1)), int(where[2] * (width - size + 1))
        return _scaled(pixels[top : top + size, left : left + size], side, side)

    def picture(self, number: int, longest: int) -> Tensor:
        """The whole picture, (3, H, W) in [0, 1], its longer side at most `longest`."""
        pixels = self._pixels(number)
        height, width = pixels.shape[:2]
        ratio = min(1.0, longest / max(height, width))
        return _scaled(pixels, max(1, round(height * ratio)), max(1, round(width * ratio)))

    def _pixels(self, number: int) -> NDArray[np.uint8]:
        for place in range(number, number + len(self)):
            name = self.names[place % len(self)]
            if name in self.bad:
                continue
            try:
                return wire.decode_image(self.read(name), name)
            except (InvalidArgument, OSError) as error:
                log.warning("%s is left out: %s", name, error)
                self.bad.add(name)
        raise FailedPrecondition(f"{self.what} has no picture that can be read, of {len(self)}")


def folder_dataset(folder: Path, name: str) -> ImageDataset:
    """The pictures in `folder` and all below it, in the order of their paths."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [str(path.relative_to(folder)) for path in paths]
    return ImageDataset(names, lambda path: (folder / path).read_bytes(), f"folder {name!r}")


def collection_dataset(files: CollectionFiles, collection: str, shards: Sequence[str]) -> ImageDataset:
    """The pictures that `shards` of a collection list. Raises NotFound when it was deleted."""
    names = [image for shard in shards for image in files.shard(collection, shard)]
    return ImageDataset(names, lambda image: files.image(collection, image), f"collection {collection!r}")


def _scaled(pixels: NDArray[np.uint8], height: int, width: int) -> Tensor:
    """The pixels (H, W, 3), bilinear where the size is another one, as (3, height, width) in [0, 1]."""
    if pixels.shape[:2] != (height, width):
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.transpose(2, 0, 1) / np.float32(255))
