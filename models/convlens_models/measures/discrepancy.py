"""Receptive fields as they are in practice, by discrepancy maps. Needs no torch.

Zhou, Khosla, Lapedriza, Oliva, Torralba: Object detectors emerge in deep scene CNNs (2015), arXiv:1412.6856,
section 3.2. An image is occluded by a small patch of random pixels at each place of a dense grid; where that
changes the unit, the unit looks. The maps of several images are recentred on the unit and averaged.

The server and the workers share these lines: they differ only in `Forward`, which runs the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_models.manifest import Layer, Manifest
from convlens_models.measures.receptive_field import Box, Size, receptive_field
from convlens_models.measures.units import F32, Hit

Forward = Callable[[F32], F32]
"""Images (N, 3, H, W) in [0, 1] to the map of one channel, (N, H', W')."""
Indices = NDArray[np.int64]

PIXELS_A_PASS: Final = 500_000
"""Bounds the memory of a pass: ten occluded images of 224 x 224 pixels."""
OCCLUSIONS_A_PASS: Final = 256
SAME: Final = 1e-3
"""Relative difference up to which a unit in a part of the image has its value in the whole image."""


@dataclass(frozen=True)
class Patches:
    """A dense grid of square occluders of random pixels, each value uniform in [0, 1].

    Attributes:
        side: of a patch, in pixels.
        stride: pixels between neighbouring patches; the last ones end where the image ends.
        seed: of their pixels, which do not depend on which other patches are looked at.
    """

    side: int
    stride: int
    seed: int

    def check(self, size: Size, path: str = "discrepancy") -> None:
        """Raise InvalidArgument unless the patches fit into images of that size and leave no gaps."""
        if self.side > min(size):
            allowed = f"at most {min(size)}, the shorter side of the images"
            raise InvalidArgument.of(f"{path}.patch", self.side, allowed)
        if self.stride > self.side:
            raise InvalidArgument.of(f"{path}.stride", self.stride, f"at most the patch, {self.side}")

    def starts(self, extent: int) -> Indices:
        """First pixels of the patches along an axis of `extent` pixels."""
        return np.unique(np.append(np.arange(0, extent - self.side, self.stride), extent - self.side))

    def cover(self, extent: int) -> F32:
        """1 where a patch (rows) covers a pixel (columns) of an axis, else 0."""
        offsets = np.arange(extent) - self.starts(extent)[:, None]
        return np.asarray((offsets >= 0) & (offsets < self.side), np.float32)

    def pixels(self, image: int, top: int, left: int) -> F32:
        """The occluder (3, side, side) at that place of the image with that number."""
        rng = np.random.default_rng((self.seed, image, top, left))
        return rng.random((3, self.side, self.side), np.float32)


@dataclass(frozen=True)
class Probe:
    """The occlusions of one image that can change a unit.

    Only patches that overlap the unit's theoretical receptive field can; the change by any other is 0. And
    only a part of the image needs to be run: see `part_of`.

    Attributes:
        image: (3, H, W) in [0, 1].
        number: of the image, for the patches' pixels.
        patches: the grid.
        field: theoretical receptive field; may reach beyond the image.
        part: what is run of the image.
        unit: row and column of the unit in the map of `part`.
        clean: its value there.
        places: (P, 2), first row and column of each patch that overlaps the field.
    """

    image: F32
    number: int
    patches: Patches
    field: Box
    part: Box
    unit: tuple[int, int]
    clean: float
    places: Indices

    @property
    def size(self) -> Size:
        """Height and width of the image."""
        return self.image.shape[1], self.image.shape[2]

    def passes(self) -> list[slice]:
        """The places in portions that are run at once, each of bounded memory."""
        rows, columns = self.image[0][self.part.pixels].shape
        count = min(OCCLUSIONS_A_PASS, max(1, PIXELS_A_PASS // (rows * columns)))
        return [slice(start, start + count) for start in range(0, len(self.places), count)]

    def occluded(self, portion: slice) -> F32:
        """The part of the image under each of those patches, (n, 3, h, w)."""
        places, side = self.places[portion], self.patches.side
        whole = self.image.copy()
        batch = np.empty((len(places), 3, *whole[0][self.part.pixels].shape), np.float32)
        for occluded, (top, left) in zip(batch, places.tolist(), strict=True):
            rows, columns = slice(top, top + side), slice(left, left + side)
            kept = whole[:, rows, columns].copy()
            whole[:, rows, columns] = self.patches.pixels(self.number, top, left)
            occluded[:] = whole[(slice(None), *self.part.pixels)]
            whole[:, rows, columns] = kept
        return batch

    def changes(self, forward: Forward, portion: slice) -> F32:
        """|a' - a| of the unit under each of those patches, (n,)."""
        values = forward(self.occluded(portion))[:, *self.unit]
        return np.asarray(np.abs(values - np.float32(self.clean)))

    def discrepancy_map(self, changes: F32) -> F32:
        """The mean |change| of the unit under the patches that cover each pixel, (H, W).

        Args:
            changes: of all places, (P,).
        """
        height, width = self.size
        rows, columns = self.patches.cover(height), self.patches.cover(width)
        grid = np.zeros((len(rows), len(columns)), np.float32)
        top, left = self.places.T
        row = np.searchsorted(self.patches.starts(height), top)
        grid[row, np.searchsorted(self.patches.starts(width), left)] = changes
        mean: F32 = (rows.T @ grid @ columns) / (rows.sum(0)[:, None] * columns.sum(0))
        return mean


def probe(
    forward: Forward,
    image: F32,
    hit: Hit,
    *,
    number: int,
    manifest: Manifest,
    layer: Layer,
    patches: Patches,
) -> Probe:
    """The occlusions for the unit at `hit`, checked by a run of the part of the image that they need.

    Where the network gives the unit another value in the part than in the whole image, the whole is taken.
    """
    size = image.shape[1], image.shape[2]
    field = receptive_field(layer, hit.y, hit.x, size)
    places = _overlapping(patches, field, size)
    whole = Probe(
        image, number, patches, field, Box(0, 0, size[1], size[0]), (hit.y, hit.x), hit.value, places
    )
    part = part_of(field, layer.stride, size, manifest)
    if part == whole.part:
        return whole
    unit = (hit.y - part.top // layer.stride, hit.x - part.left // layer.stride)
    clean = float(forward(image[(None, slice(None), *part.pixels)])[0, *unit])
    if abs(clean - hit.value) > SAME * max(abs(hit.value), 1.0):
        return whole
    return Probe(image, number, patches, field, part, unit, clean, places)


def part_of(field: Box, stride: int, size: Size, manifest: Manifest) -> Box:
    """The part of an image that gives the unit with that field its value: the field, and a little around it.

    Along each axis it begins at a multiple of the layer's stride, and ends a multiple of it before the image
    ends. So every layer within has its positions at the same pixels as in the whole image, and its border
    windows and paddings are as they are there, whatever way sizes are rounded. Padding where the whole image
    has none is beyond the field. Networks of a fixed size and units that see everything get the whole image.
    """
    height, width = size
    if stride == 0 or not manifest.dynamic_size:
        return Box(0, 0, width, height)
    top, bottom = _span(field.top, field.bottom, stride, height, manifest.min_size)
    left, right = _span(field.left, field.right, stride, width, manifest.min_size)
    return Box(left, top, right, bottom)


def _span(first: int, end: int, stride: int, extent: int, least: int) -> tuple[int, int]:
    """[first, end) widened onto the grid along an axis, and to `least` pixels if there are so many."""
    start = max(0, min(first, extent - 1)) // stride * stride
    stop = extent - max(0, extent - max(end, 1)) // stride * stride
    while stop - start < min(least, extent):
        start, stop = max(0, start - stride), min(extent, stop + stride)
    return start, stop


def _overlapping(patches: Patches, field: Box, size: Size) -> Indices:
    """First row and column of each patch with a pixel in the field, (P, 2)."""
    spans = ((field.top, field.bottom), (field.left, field.right))
    axes = []
    for (first, end), extent in zip(spans, size, strict=True):
        starts = patches.starts(extent)
        axes.append(starts[(starts < end) & (starts + patches.side > first)])
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def average(probes: Sequence[Probe], maps: Sequence[F32]) -> F32:
    """The maps cut to the unit's theoretical field in each image, laid on each other, and averaged.

    What patches smear beyond the theoretical field is cut off. Each pixel of the field is averaged over the
    images that have it; the others have their border there. Pixels that no image has are 0. Nothing is
    subtracted: where a unit does not look its change is exactly 0, so there is no background.

    Returns:
        (S, S), where S is the side of the theoretical field: the first row belongs to its first row. The size
        of the images where positions see everything.
    """
    box = probes[0].field
    total = np.zeros((box.bottom - box.top, box.right - box.left), np.float32)
    images = np.zeros_like(total)
    for one, map_ in zip(probes, maps, strict=True):
        (height, width), field = one.size, one.field
        rows = slice(max(0, field.top), max(0, min(field.bottom, height)))
        columns = slice(max(0, field.left), max(0, min(field.right, width)))
        seen = map_[rows, columns]
        top, left = rows.start - field.top, columns.start - field.left
        inside = (slice(top, top + seen.shape[0]), slice(left, left + seen.shape[1]))
        total[inside] += seen
        images[inside] += 1
    return np.divide(total, images, out=total, where=images > 0)


def empirical_size(field: F32, threshold: float) -> float:
    """Side in pixels of the square with the area in which the field exceeds `threshold` x its maximum.

    0 for a unit that nothing changes.
    """
    return math.sqrt(int((field > threshold * field.max()).sum()))
