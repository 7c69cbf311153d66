"""Dreams of several frames, and the video that they make."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from support import techniques
from support.dreams import make_task, photo, run

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens.v1 import job_pb2
from convlens_models.network import Network
from convlens_models.repository import StoredModel
from convlens_workers.jobs.techniques.deepdream import MOST_PIXELS
from convlens_workers.techniques.deepdream import deepdream
from convlens_workers.techniques.parts.animation import eight_bit, encoder, zoomed


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


def decoded(data: bytes, kind: str) -> tuple[list[np.ndarray], float]:
    """The frames of a file (H, W, 3) in [0, 1], and its seconds."""
    if kind == "mp4":
        with av.open(io.BytesIO(data)) as video:
            (stream,) = video.streams
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
            seconds = float(stream.duration * stream.time_base)
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    else:
        with Image.open(io.BytesIO(data)) as video:
            assert (video.format, video.info["loop"]) == (kind.upper(), 0)
            shown = [frame.copy() for frame in ImageSequence.Iterator(video)]
        frames = [np.asarray(frame.convert("RGB")) for frame in shown]
        seconds = sum(frame.info["duration"] for frame in shown) / 1000
    return [frame / 255 for frame in frames], seconds


@pytest.mark.parametrize(
    ("kind", "rate", "error"), [("gif", 12, 0.02), ("gif", 50, 0.02), ("mp4", 12, 0.012)]
)
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_a_file_has_all_frames_at_their_rate(
    kind: str, rate: float, error: float, size: tuple[int, int]
) -> None:
    """Read by Pillow and by PyAV: of an odd side, H.264 shows the last row or column twice."""
    down, across = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    frames = [
        eight_bit(torch.stack([down, across, (down - across).abs()])[None] * share)
        for share in torch.linspace(1, 0.4, 13)
    ]
    data = encoder(kind)(frames, rate)
    assert data == encoder(kind)(frames, rate)
    shown, seconds = decoded(data, kind)
    assert len(shown) == len(frames)
    assert seconds == pytest.approx(len(frames) / rate, abs=0.006)
    height, width = (side + (kind == "mp4") * (side % 2) for side in size)
    for frame, image in zip(frames, shown, strict=True):
        assert image.shape == (height, width, 3)
        wanted = np.pad(frame[0].permute(1, 2, 0).numpy() / 255, ((0, 1), (0, 1), (0, 0)), mode="edge")
        assert np.abs(image - wanted[:height, :width]).mean() < error


def test_a_dream_is_stored_in_the_file_that_was_asked_for(network: Network, stored: StoredModel) -> None:
    calm = torch.nn.functional.interpolate(photo(6, 8), (47, 64), mode="bicubic").clamp(0, 1)
    task = make_task(network, stored, calm, frames=2, steps=1, octaves=1, video=job_pb2.VIDEO_MP4)
    _, results = techniques.run(deepdream(task))
    assert [name for name in results if name.startswith("zoom")] == ["zoom.mp4"]
    shown, _ = decoded(results["zoom.mp4"].numpy().tobytes(), "mp4")
    for number, image in enumerate(shown):
        frame = results[f"frame.{number:04}"][0].permute(1, 2, 0).numpy()
        assert np.abs(image[:47] - frame).mean() < 0.03


def test_without_pyav_an_mp4_is_refused_before_the_first_step(
    network: Network, stored: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convlens_workers.techniques.parts.animation.find_spec", lambda name: None)
    technique = deepdream(make_task(network, stored, frames=2, video=job_pb2.VIDEO_MP4))
    with pytest.raises(FailedPrecondition, match=r"convlens\[video\]"):
        next(technique)


def test_zooming_keeps_the_centre_and_enlarges() -> None:
    across = torch.linspace(0, 1, 65).expand(1, 3, 65, 65)
    closer = zoomed(across, 2.0)
    torch.testing.assert_close(closer[..., 32, 32], across[..., 32, 32])
    torch.testing.assert_close(closer[..., 20:45].diff().mean(), across.diff().mean() / 2)
    assert zoomed(across, 1.0) is across
