"""Dreams whose gradient's bands have one strength."""

from __future__ import annotations

import pytest
import torch
from support.dreams import make_task, photo, run
from torch import Tensor

from convlens_models.network import Network
from convlens_models.repository import StoredModel
from convlens_workers.techniques.parts.pyramid import bands, equalised, merged


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_pyramid_is_the_picture_again(count: int) -> None:
    image = torch.randn(1, 3, 37, 50)
    pyramid = bands(image, count)
    assert len(pyramid) == count + 1
    torch.testing.assert_close(merged(pyramid), image)


def test_all_bands_have_one_strength() -> None:
    """A fine pattern 1000 times as strong as a coarse one: both come out of the same order."""
    across = torch.arange(128.0)
    fine, coarse = torch.cos(across * torch.pi), torch.cos(across * torch.pi / 16)
    image = (100 * fine + 0.1 * coarse).expand(1, 3, 128, 128)
    spectrum = torch.fft.rfft(equalised(image, 4)[0, 0, 64]).abs()
    assert spectrum[4] > 0.2 * spectrum[64]
    assert not equalised(torch.zeros(1, 3, 40, 40), 3).any()


def test_laplacian_dreams_are_coarser(network: Network, stored: StoredModel) -> None:
    def coarse(image: Tensor) -> float:
        low = torch.nn.functional.avg_pool2d(image - photo(), 4)
        return float(low.square().mean() / (image - photo()).square().mean())

    plain, smooth = (run(make_task(network, stored, laplacian=count))[1] for count in (0, 3))
    assert coarse(smooth) > 1.5 * coarse(plain)
