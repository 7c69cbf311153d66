"""What a job is reckoned to cost, and the limits it meets before it is queued."""

from __future__ import annotations

import pytest
import torch
from google.protobuf.message import Message
from torch import nn

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2, job_pb2
from convlens_models.repository import ModelRepository
from convlens_server.jobs.admission import Limits
from convlens_server.settings import ServerSettings
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques import SPECIFICATIONS, TECHNIQUE
from convlens_workers.jobs.techniques.base import Submission
from convlens_workers.jobs.techniques.substitute import SUBSTITUTE_MODEL
from convlens_workers.techniques.parts.substitute_model import build

MANIFEST = ModelRepository().get().manifest
PIXELS = MANIFEST.input_size**2
LAYER = "features.relu3_1"


def submission(params: Message, *size: int, **sizes: Size) -> Submission:
    """A job whose pictures are called "image", or as `sizes` have it."""
    (name,) = [arm.name for arm in TECHNIQUE.fields if arm.message_type is params.DESCRIPTOR]
    named = {path.replace("_0", "[0]").replace("__", "."): size for path, size in sizes.items()}
    return Submission(name, params, MANIFEST, {"image": size, **named} if size else named)


def cost(params: Message, *size: int, **sizes: Size) -> float:
    job = submission(params, *size, **sizes)
    return SPECIFICATIONS[job.technique].estimate(job).cost


def test_the_cost_of_a_dream_is_that_of_its_octaves() -> None:
    def dream(side: int, **params: float) -> float:
        given = {"steps": 1, "octaves": 1, "octave_scale": 2, "frames": 1, **params}
        return cost(job_pb2.DeepDream(layers=[LAYER], **given), side, side)

    one = dream(128)
    assert dream(128, steps=10) == pytest.approx(10 * one)
    assert dream(128, octaves=2) == pytest.approx(one * (1 + 1 / 4))
    assert dream(128, octaves=9) == pytest.approx(one * (1 + 1 / 4 + 1 / 16))  # Smaller ones are left out.
    assert dream(256) == dream(256, tile=128) == pytest.approx(4 * one)
    assert dream(128, frames=3) == pytest.approx(3 * one)


def test_the_cost_of_a_style_hardly_depends_on_how_large_its_file_is() -> None:
    params = job_pb2.StyleTransfer(styles=[{}], first_steps=20, steps=10, smallest=64)
    content = (128, 128)
    small, large = (cost(params, content=content, styles_0__image=size) for size in ((64, 64), (1528, 1200)))
    assert small == pytest.approx(large, rel=0.02)


def test_the_cost_of_a_texture_is_that_of_its_scales() -> None:
    one = job_pb2.Texture(height=512, width=512, steps=100, scales=1)
    two = job_pb2.Texture(height=512, width=512, steps=100, scales=2)
    assert cost(two, sample=(300, 300)) == pytest.approx(1.3 * cost(one, sample=(300, 300)), rel=0.05)


def test_the_cost_of_a_patch_is_that_of_its_samples_however_many_photos_there_are() -> None:
    def patch(images: int) -> float:
        params = adversarial_pb2.AdversarialPatch(images=[{}] * images, held_out=[{}], samples=8, steps=50)
        return cost(params, images_0=(96, 96))

    assert patch(40) == patch(1)


def test_the_cost_of_pictures_made_from_nothing_is_that_of_their_pixels() -> None:
    term = {"target": {"channel": {"layer": LAYER}}}
    wanted = [{"terms": [term]}] * 2
    one = cost(job_pb2.FeatureVisualisation(objectives=wanted, variants=1, steps=50))
    assert cost(job_pb2.FeatureVisualisation(objectives=wanted, variants=3, steps=50)) == pytest.approx(
        3 * one
    )
    half = MANIFEST.input_size // 2
    small = job_pb2.FeatureVisualisation(objectives=wanted, variants=1, steps=50, size=half)
    assert cost(small) == pytest.approx(one / 4)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (Limits(pixels=PIXELS - 1, cost=1e17), "pixels'?: must be at most"),
        (Limits(pixels=PIXELS, cost=1e3), "multiply-adds'?: must be at most 1e\\+03: fewer"),
    ],
)
def test_a_job_beyond_a_limit_is_refused(limits: Limits, text: str) -> None:
    params = job_pb2.DeepDream(steps=1, octaves=1, octave_scale=2, frames=1)
    with pytest.raises(InvalidArgument, match=text):
        limits.admit(submission(params, 96, 96))


def test_a_substitute_model_has_so_many_multiply_adds() -> None:
    shape = (1, 3, 64, 64)
    copy = sum(
        output[0].numel() * kernel[0].numel() for kernel, output in convolutions(build(5), torch.zeros(shape))
    )
    assert pytest.approx(copy / 64**2) == SUBSTITUTE_MODEL


def convolutions(network: nn.Module, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights and output of each convolution."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda part, _, output: seen.append((part.weight, output)))
    network.eval()(images)
    return seen


def test_a_guide_fits_on_top_of_the_largest_picture() -> None:
    settings = ServerSettings()
    limits = Limits(settings.max_job_pixels, settings.max_job_cost)
    params = job_pb2.DeepDream(steps=1, octaves=1, octave_scale=2, frames=1)
    limits.admit(submission(params, 4096, 4096, guide=(2048, 2048)))
