"""Style networks with random weights: ours, and that of pytorch/examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlens_models.architectures.fast_style import FastStyle


def random_style(seed: int = 0, width: int = 32) -> FastStyle:
    """The same network every time, in evaluation mode; its norms have telling weights as well."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = FastStyle(width).eval().requires_grad_(False)
        for part in network.modules():
            if isinstance(part, nn.InstanceNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.2)
    return network


def style_state(seed: int = 0, width: int = 32) -> dict[str, Tensor]:
    """Its weights."""
    return dict(random_style(seed, width).state_dict())


class _Convolution(nn.Module):
    def __init__(self, channels: int, filters: int, kernel: int, stride: int = 1, upsample: int = 1) -> None:
        super().__init__()
        self.upsample, self.pad = upsample, kernel // 2
        self.conv2d = nn.Conv2d(channels, filters, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=self.upsample) if self.upsample > 1 else x
        return self.conv2d(F.pad(x, (self.pad,) * 4, mode="reflect"))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (_Convolution(channels, channels, 3) for _ in range(2))
        self.in1, self.in2 = (nn.InstanceNorm2d(channels, affine=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.in2(self.conv2(self.in1(self.conv1(x)).relu()))


class TransformerNet(nn.Module):
    """The network of pytorch/examples/fast_neural_style: (N, 3, H, W) in 0..255 to about the same."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        down = ((3, width, 9, 1), (width, 2 * width, 3, 2), (2 * width, 4 * width, 3, 2))
        up = ((4 * width, 2 * width, 3, 1, 2), (2 * width, width, 3, 1, 2), (width, 3, 9))
        for number, (into, out) in enumerate(zip(down, up, strict=True), 1):
            setattr(self, f"conv{number}", _Convolution(*into))
            setattr(self, f"deconv{number}", _Convolution(*out))
        for number, channels in enumerate((width, 2 * width, 4 * width, 2 * width, width), 1):
            setattr(self, f"in{number}", nn.InstanceNorm2d(channels, affine=True))
            setattr(self, f"res{number}", _Residual(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        for number in (1, 2, 3):
            x = getattr(self, f"in{number}")(getattr(self, f"conv{number}")(x)).relu()
        for number in range(1, 6):
            x = getattr(self, f"res{number}")(x)
        for number in (1, 2):
            x = getattr(self, f"in{number + 3}")(getattr(self, f"deconv{number}")(x)).relu()
        return self.deconv3(x)

    def painted(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as its users see them: clipped, and as large as they came in."""
        with torch.no_grad():
            return (self(images * 255).clamp(0, 255) / 255)[..., : images.shape[2], : images.shape[3]]


def random_transformer_net(seed: int = 0, width: int = 32) -> TransformerNet:
    """One whose norms have telling weights, and whose pixels are mostly between black and white."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TransformerNet(width).eval().requires_grad_(False)
        for part in network.modules():
            if isinstance(part, nn.InstanceNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.2)
    network.deconv3.conv2d.weight *= 100
    network.deconv3.conv2d.bias += 128
    return network
