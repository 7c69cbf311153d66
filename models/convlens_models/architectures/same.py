"""TensorFlow's SAME padding: as many positions as the stride leaves of the image, rounded up."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """A convolution without bias and with an odd kernel whose zeros around the image follow from its size.

    Along each axis of n pixels there are kernel - 1 - (n - 1) mod stride of them, the odd one behind: with
    stride 2 a 3x3 kernel has none before an even side, and one before an odd side.
    """

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(channels, filters, kernel, stride, groups=groups, bias=False)
        self._step, self._reach = stride, kernel - 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, filters, ceil(H / stride), ceil(W / stride))."""
        (top, bottom), (left, right) = (self._pads(side) for side in x.shape[2:])
        out: Tensor = super().forward(F.pad(x, [left, right, top, bottom]))
        return out

    def _pads(self, side: int) -> tuple[int, int]:
        """Zeros before and behind an axis."""
        both = self._reach - (side - 1) % self._step
        return both // 2, both - both // 2


def same_conv2d(channels: int, filters: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    """A convolution with SAME padding; without a stride it is the same at all sizes."""
    if stride > 1:
        return SameConv2d(channels, filters, kernel, stride, groups)
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2, groups=groups, bias=False)
