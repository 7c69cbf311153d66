"""Smooth random fields."""

from __future__ import annotations

import numpy as np

from convlens_models.patterns.sdf import Field


def drifting(rng: np.random.Generator, count: int, size: int, roughness: float) -> Field:
    """Noise (count, size, size) whose amplitude falls as frequency**-roughness; mean 0, deviation 1."""
    fy, fx = np.fft.fftfreq(size).astype(np.float32), np.fft.rfftfreq(size).astype(np.float32)
    radius = np.hypot(fy[:, None], fx[None, :])
    radius[0, 0] = np.inf
    white = rng.standard_normal((2, count, size, size // 2 + 1), np.float32)
    field = np.fft.irfft2((white[0] + 1j * white[1]) * radius**-roughness, s=(size, size)).astype(np.float32)
    field -= field.mean((1, 2), keepdims=True)
    scaled: Field = field / (field.std((1, 2), keepdims=True) + np.float32(1e-6))
    return scaled
