"""Which channels of a layer a picture excites most, and which least."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Excited(NamedTuple):
    """Channels by number, and the mean of each over the picture."""

    channels: list[int]
    means: list[float]


def excited(features: Tensor, strongest: int, weakest: int) -> Excited:
    """So many channels of largest mean, and so many of smallest, of features (1, C) or (1, C, H, W).

    Channels that are zero everywhere are passed over, as the gradient of their norm is zero: where there are
    too few others, fewer are chosen, and none twice. Of equal means the lower number comes first.
    neural-dream, which ranks by the mean too, chooses silent channels as its weakest.
    """
    rows = features[0].flatten(1) if features.dim() > 2 else features[0][:, None]
    means = rows.double().mean(1).tolist()
    live = rows.ne(0).any(1).nonzero()[:, 0].tolist()
    ranked = sorted(live, key=lambda channel: -means[channel])
    high, low = ranked[:strongest], sorted(live, key=lambda channel: means[channel])[:weakest]
    channels = list(dict.fromkeys([*high, *low]))
    return Excited(channels, [means[channel] for channel in channels])
