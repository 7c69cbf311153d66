"""What is known of a stored style network without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from convlens_models.manifest import Rgb
from convlens_models.repository import StoredModel

FAST_STYLE: Final = "fast_style"
TRANSFORMER_NET: Final = "transformer_net"
"""The same network, but its pixels are from 0 to 255, and clipped where the other has a sigmoid."""


class Pixels(NamedTuple):
    """What a network has for pixels.

    Attributes:
        mean, std: (x - mean) / std is its input, of x in [0, 1].
        white: of its output, as it learns; the last layer of a stored network is divided by it.
    """

    mean: Rgb
    std: Rgb
    white: float


PIXELS: Final[Mapping[str, Pixels]] = {
    FAST_STYLE: Pixels((0.5,) * 3, (0.5,) * 3, 1.0),
    TRANSFORMER_NET: Pixels((0.0,) * 3, (1 / 255,) * 3, 255.0),
}
"""By architecture; there are no others."""
FIRST: Final = "down.1.weight"
"""The first layer's kernel, whose filters are the network's width."""
LAST: Final = "paint.1"
"""The layer whose values are pixels."""
WIDTH: Final = 32
"""Of networks whose width nobody says."""


def width(stored: StoredModel) -> int:
    """Channels of the first layer. Raises DataLoss for damaged weights."""
    return int(stored.weights()[FIRST].shape[0])
