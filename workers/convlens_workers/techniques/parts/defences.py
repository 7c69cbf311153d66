"""Defences: transformations of pictures before the model sees them, meant to undo attacks.

Guo, Rana, Cisse, van der Maaten: Countering adversarial images using input transformations (2018),
arXiv:1711.00117.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from convlens import wire
from convlens.v1 import adversarial_pb2
from convlens_workers.techniques.parts.attacks import groups

Defend = Callable[[Tensor], Tensor]
"""Pictures (N, 3, H, W) in [0, 1] to pictures of that shape, without a graph."""
ITERATIONS: Final = 50
"""Iterations of Chambolle's algorithm; at weight 0.1 within a grey level of the limit (scikit-image: 1.2)."""


def defence(message: adversarial_pb2.Defence) -> Defend:
    """What `message` describes, for a batch of any size."""
    name = message.WhichOneof("defence") or ""
    defend, settings = DEFENCES[name], getattr(message, name)

    def grouped(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([defend(images[part], settings) for part in groups(images)])

    return grouped


def bit_depth(images: Tensor, bits: int) -> Tensor:
    """Each value rounded to one of 2^bits levels, evenly from 0 to 1."""
    levels: int = 2**bits - 1
    return (images * levels).round() / levels


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Rounded to 8 bits, encoded by Pillow with colours at half the resolution, and decoded."""
    files = (wire.encode_image(image, "JPEG", quality=quality) for image in images.detach().cpu().numpy())
    decoded = torch.stack([torch.tensor(wire.decode_image(file)) for file in files])
    return decoded.permute(0, 3, 1, 2).to(images) / 255


def total_variation(images: Tensor, weight: float, iterations: int = ITERATIONS) -> Tensor:
    """The u with least |u - x|^2 / 2 + weight TV(u), channel by channel (Chambolle 2004).

    TV(u) is the sum of the lengths of u's gradient by forward differences. The dual field p of that gradient
    takes p <- (p - t g) / (1 + t |g| / weight), t = 1/4, g the gradient of u = x - div p; the numbers are
    those of scikit-image's `denoise_tv_chambolle`. It is written out here because an adaptive attack calls it
    at every step: on the device, for the whole batch, with as many iterations whatever the picture.
    """
    field = torch.zeros(2, *images.shape, dtype=images.dtype, device=images.device)
    smoothed = images
    for _ in range(iterations):
        gradient = _gradient(smoothed)
        size = gradient.square().sum(0).sqrt()
        field = (field - gradient / 4) / (1 + size / (4 * weight))
        smoothed = images - _divergence(field)
    return smoothed.clamp(0, 1)


def _gradient(images: Tensor) -> Tensor:
    """Forward differences down and across, (2, N, 3, H, W); 0 at the far edges."""
    gradient = torch.zeros(2, *images.shape, dtype=images.dtype, device=images.device)
    gradient[0, :, :, :-1] = images.diff(dim=2)
    gradient[1, :, :, :, :-1] = images.diff(dim=3)
    return gradient


def _divergence(field: Tensor) -> Tensor:
    """Minus the adjoint of `_gradient`, for a field that is 0 at the far edges."""
    down, across = field.unbind()
    total = down + across
    total[:, :, 1:] -= down[:, :, :-1]
    total[:, :, :, 1:] -= across[:, :, :, :-1]
    return total


DEFENCES: Final[Mapping[str, Callable[[Tensor, Any], Tensor]]] = {
    "bit_depth": lambda images, settings: bit_depth(images, settings.bits),
    "jpeg": lambda images, settings: jpeg(images, settings.quality),
    "total_variation": lambda images, settings: total_variation(images, settings.weight),
}
