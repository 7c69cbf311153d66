"""Lucid's parametrisation of pictures: Fourier coefficients and decorrelated colours instead of pixels."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from convlens_workers.techniques.parts.pixels import Size

DEVIATION: Final = 0.01
DAMPING: Final = 4.0
EDGE: Final = 1 / 512
"""Half a level of 8 bits: the sigmoid comes no closer to black and white."""
COLOURS: Final = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))
"""Square root of the covariance of ImageNet's colours; a row each for red, green and blue."""


def noise_spectrum(count: int, size: Size, rng: torch.Generator) -> Tensor:
    """Coefficients (count, 3, H, W // 2 + 1, 2), real and imaginary parts from N(0, 0.01)."""
    height, width = size
    return torch.randn(count, 3, height, width // 2 + 1, 2, generator=rng) * DEVIATION


def fourier_picture(spectrum: Tensor, width: int) -> Tensor:
    """Pictures (N, 3, H, W) in (0, 1) of coefficients; `width` tells even from odd.

    Each is divided by its frequency in cycles a pixel, no less than one over the longer side, so that all
    frequencies of a natural picture start alike; then the inverse transform, colours, and the sigmoid.
    """
    height = spectrum.shape[2]
    scaled = torch.view_as_complex(spectrum.contiguous()) * _scale((height, width), spectrum.device)
    values = torch.fft.irfft2(scaled, s=(height, width), norm="ortho")
    return torch.einsum("rc,nchw->nrhw", _colours(values), values / DAMPING).sigmoid()


def spectrum_of(pictures: Tensor) -> Tensor:
    """The reverse: coefficients (N, 3, H, W // 2 + 1, 2) of pictures (N, 3, H, W), `EDGE` from 0 and 1."""
    height, width = pictures.shape[2:]
    colours = torch.linalg.inv(_colours(pictures).double())
    logits = pictures.double().clamp(EDGE, 1 - EDGE).logit()
    values = DAMPING * torch.einsum("rc,nchw->nrhw", colours, logits)
    scale = _scale((height, width), pictures.device).double()
    return torch.view_as_real(torch.fft.rfft2(values, norm="ortho") / scale).to(pictures.dtype)


def decorrelated(image: Tensor) -> Tensor:
    """Decorrelated colours C^-1 x of pictures (N, 3, H, W), scaled so that grey keeps its length."""
    back = torch.linalg.inv(_colours(image))
    return torch.einsum("rc,nchw->nrhw", back * (3**0.5 / back.sum(1).norm()), image)


def along_colours(gradient: Tensor) -> Tensor:
    """By what pixels (N, 3, H, W) change if their decorrelated colours go along the gradient: C C^T g.

    Networks are most sensitive where pictures hardly vary, from green to magenta; pixels left to themselves
    go there first.
    """
    colours = _colours(gradient)
    return torch.einsum("rc,nchw->nrhw", colours @ colours.mT, gradient)


def _scale(size: Size, device: torch.device) -> Tensor:
    """What the coefficients (H, W // 2 + 1) of pictures of `size` are multiplied by."""
    down = torch.fft.fftfreq(size[0], device=device)[:, None]
    right = torch.fft.rfftfreq(size[1], device=device)
    return 1 / torch.hypot(down, right).clamp_min(1 / max(size))


def _colours(like: Tensor) -> Tensor:
    """C, which makes red, green and blue of decorrelated colours."""
    colours = torch.tensor(COLOURS).to(like)
    scaled: Tensor = colours / torch.linalg.vector_norm(colours, dim=0).max()
    return scaled
