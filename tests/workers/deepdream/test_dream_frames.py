"""Dreams of several frames, and the video that they make."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support import techniques
from support.dreams import make_task, photo, run

from convlens.errors import InvalidArgument
from convlens_models.network import Network
from convlens_models.repository import StoredModel
from convlens_workers.jobs.techniques.deepdream import MOST_PIXELS
from convlens_workers.techniques.deepdream import deepdream
from convlens_workers.techniques.parts.animation import zoomed


def test_a_video_too_large_is_refused(network: Network, stored: StoredModel) -> None:
    side = 512
    image = torch.zeros(1, 3, side, side)
    most = MOST_PIXELS // side**2
    with pytest.raises(InvalidArgument, match=rf"deepdream\.frames.*at most {most} of 512 x 512"):
        run(make_task(network, stored, image, frames=most + 1))


def test_frames_are_dreams_of_the_enlarged_frame_before(network: Network, stored: StoredModel) -> None:
    """A second frame is the dream of one picture: the first one, enlarged."""
    params = {"layers": ["features.relu4_1"], "jitter": 0, "octaves": 2, "step_size": 4.0}
    task = make_task(network, stored, frames=3, zoom=1.2, frame_rate=8, **params)
    steps, results = techniques.run(deepdream(task))
    expected = [run(make_task(network, stored, **params))[1]]
    for _ in range(2):
        expected.append(run(make_task(network, stored, zoomed(expected[-1], 1.2), **params))[1])
    assert list(results) == ["image", "frame.0000", "frame.0001", "frame.0002", "zoom.webp"]
    assert torch.equal(results["image"], expected[-1])
    for number, image in enumerate(expected):
        frame = results[f"frame.{number:04}"]
        assert frame.dtype == torch.float32
        torch.testing.assert_close(frame, image, rtol=0, atol=0.5 / 255 + 1e-6)
    assert [step.number for step in steps] == list(range(1, 25))


def test_the_video_is_an_animated_webp_of_the_frames(network: Network, stored: StoredModel) -> None:
    calm = torch.nn.functional.interpolate(photo(6, 8), (48, 64), mode="bicubic").clamp(0, 1)
    _, results = techniques.run(deepdream(make_task(network, stored, calm, frames=3, frame_rate=8, steps=1)))
    assert results["zoom.webp"].dtype == torch.uint8
    with Image.open(io.BytesIO(results["zoom.webp"].numpy().tobytes())) as video:
        assert (video.format, video.n_frames, video.info["loop"]) == ("WEBP", 3, 0)
        for number in range(3):
            video.seek(number)
            shown = np.asarray(video.convert("RGB")) / 255
            assert video.info["duration"] == 125
            frame = results[f"frame.{number:04}"][0].permute(1, 2, 0).numpy()
            assert np.abs(shown - frame).mean() < 0.02


def test_zooming_keeps_the_centre_and_enlarges() -> None:
    across = torch.linspace(0, 1, 65).expand(1, 3, 65, 65)
    closer = zoomed(across, 2.0)
    torch.testing.assert_close(closer[..., 32, 32], across[..., 32, 32])
    torch.testing.assert_close(closer[..., 20:45].diff().mean(), across.diff().mean() / 2)
    assert zoomed(across, 1.0) is across
