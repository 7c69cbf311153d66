"""Frames of a zoom, and the files that are made of them: animated WebP and GIF, MP4."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from convlens.errors import FailedPrecondition

QUALITY: Final = 85
"""Quality of the pictures of an animated WebP, from 0 to 100."""
H264: Final = {"crf": "18", "preset": "medium", "threads": "1"}
"""On one thread: the bytes then do not depend on the number of cores."""
BT709, LIMITED = 1, 1
"""How FFmpeg numbers these colours, and luminance from 16 to 235."""

Encode = Callable[[Sequence[Tensor], float], bytes]
"""The bytes of a file of frames, each UINT8 (1, 3, H, W), of which so many are shown a second."""


def zoomed(image: Tensor, factor: float) -> Tensor:
    """The middle of `image` (N, C, H, W) in [0, 1], 1 / `factor` of each side, at the size of the whole."""
    if factor == 1:
        return image
    matrix = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).to(image).expand(len(image), 2, 3)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    # Bilinear: bicubic overshoots at edges, and over many frames the dream's contrast would grow without end.
    return F.grid_sample(image, grid, "bilinear", "reflection", align_corners=False).clamp(0, 1)


def eight_bit(image: Tensor) -> Tensor:
    """`image` in [0, 1] rounded to UINT8 values 0 to 255."""
    return (image * 255).round().to(torch.uint8)


def encoder(kind: str) -> Encode:
    """What writes files of a kind, "webp", "gif" or "mp4". Raises FailedPrecondition without PyAV."""
    if kind == "mp4" and find_spec("av") is None:
        raise FailedPrecondition("MP4 needs PyAV on the worker: pip install 'convlens[video]'")
    return ENCODERS[kind]


def webp(frames: Sequence[Tensor], rate: float) -> bytes:
    """An endless animated WebP; a frame lasts whole milliseconds."""
    return _animation(frames, "WEBP", duration=round(1000 / rate), quality=QUALITY)


def gif(frames: Sequence[Tensor], rate: float) -> bytes:
    """An endless animated GIF, each frame with 256 colours of its own.

    A frame lasts whole hundredths of a second, one more or less, so that each begins when it should.
    """
    begins = [round(100 * number / rate) for number in range(len(frames) + 1)]
    return _animation(frames, "GIF", duration=[10 * (end - begin) for begin, end in pairwise(begins)])


def mp4(frames: Sequence[Tensor], rate: float) -> bytes:
    """H.264 in MP4, 4:2:0, BT.709: what browsers and telephones play. Sides are made even, see `_even`."""
    import av  # noqa: PLC0415  An extra of the worker.

    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", Fraction(rate).limit_denominator(1000), options=H264)
        height, width = (side + side % 2 for side in frames[0].shape[2:])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(_rows(_even(frame)), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


ENCODERS: Final[dict[str, Encode]] = {"webp": webp, "gif": gif, "mp4": mp4}


def _animation(frames: Sequence[Tensor], kind: str, **options: object) -> bytes:
    first, *others = (Image.fromarray(_rows(frame)) for frame in frames)
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=others, loop=0, **options)
    return file.getvalue()


def _even(frame: Tensor) -> Tensor:
    """The frame with even sides, as 4:2:0 needs them: the last row or column of an odd side comes twice."""
    height, width = frame.shape[2:]
    return F.pad(frame.float(), (0, width % 2, 0, height % 2), mode="replicate").to(torch.uint8)


def _rows(frame: Tensor) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of a frame."""
    pixels: NDArray[np.uint8] = frame[0].permute(1, 2, 0).cpu().contiguous().numpy()
    return pixels
