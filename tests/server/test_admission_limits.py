"""What a job is reckoned to cost, and the limits it meets before it is queued."""

from __future__ import annotations

import pytest
import torch
from google.protobuf.message import Message
from torch import nn

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2, job_pb2, style_pb2
from convlens_models.repository import ModelRepository
from convlens_server.jobs.admission import Limits
from convlens_server.settings import ServerSettings
from convlens_workers.jobs.techniques import SPECIFICATIONS, TECHNIQUE
from convlens_workers.jobs.techniques.base import Submission
from convlens_workers.jobs.techniques.substitute import SUBSTITUTE_MODEL
from convlens_workers.techniques.parts.substitute_model import build

MANIFEST = ModelRepository().get().manifest
PIXELS = MANIFEST.input_size**2


def submission(params: Message, pixels: int) -> Submission:
    (name,) = [arm.name for arm in TECHNIQUE.fields if arm.message_type is params.DESCRIPTOR]
    return Submission(name, params, MANIFEST, {"image": (1, pixels)})


def cost(params: Message, pixels: int) -> float:
    job = submission(params, pixels)
    return SPECIFICATIONS[job.technique].cost(job)


def test_the_cost_is_that_of_all_steps_on_all_octaves() -> None:
    one = cost(job_pb2.DeepDream(steps=1, octaves=1, octave_scale=2, frames=1), PIXELS)
    assert one == pytest.approx(3 * MANIFEST.multiply_adds)
    assert cost(job_pb2.DeepDream(steps=10, octaves=1, octave_scale=2, frames=1), PIXELS) == 10 * one
    assert cost(job_pb2.DeepDream(steps=1, octaves=3, octave_scale=2, frames=1), PIXELS) == one * (
        1 + 1 / 4 + 1 / 16
    )
    assert cost(job_pb2.DeepDream(steps=1, octaves=1, octave_scale=2, frames=1), 4 * PIXELS) == 4 * one


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
        limits.admit(submission(params, PIXELS))


def test_the_cost_of_a_receptive_field_is_that_of_its_occlusions() -> None:
    """A unit that sees everything: 96 / 12 + 1 patches a side, each a pass over the whole image."""
    params = job_pb2.MeasureReceptiveField(layer="avgpool", k=5, discrepancy={"patch": 12, "stride": 12})
    assert cost(params, 0) == pytest.approx(5 * 9**2 * MANIFEST.multiply_adds)
    params.layer = "features.conv1"
    assert 0 < cost(params, 0) < 5 * 9**2 * MANIFEST.multiply_adds / 50


def test_the_cost_of_a_picture_made_from_nothing_is_that_of_its_pixels() -> None:
    visualised = job_pb2.FeatureVisualisation(objectives=[{}, {}], variants=3, steps=10)
    assert cost(visualised, 0) == pytest.approx(2 * 3 * 10 * 3 * MANIFEST.multiply_adds)
    side = MANIFEST.input_size
    texture = job_pb2.Texture(height=2 * side, width=side, steps=10)
    assert cost(texture, 7) == pytest.approx(2 * 10 * 3 * MANIFEST.multiply_adds)
    style = job_pb2.StyleTransfer(first_steps=10, steps=5)
    assert cost(style, PIXELS) == pytest.approx(10 * 3 * MANIFEST.multiply_adds)


def test_the_cost_of_a_training_is_that_of_both_networks() -> None:
    one = cost(style_pb2.TrainStyle(steps=1, batch=1, size=MANIFEST.input_size, width=32), 7)
    style_network = 153_792  # Multiply-adds a pixel: 9 x 9 x 3 x 32 + 3 x 3 x 32 x 64 / 4 + ...
    assert one == pytest.approx(3 * (MANIFEST.multiply_adds + style_network * PIXELS))
    params = style_pb2.TrainStyle(steps=10, batch=4, size=MANIFEST.input_size, width=32)
    assert cost(params, 7) == pytest.approx(40 * one)


def test_attacks_of_several_runs_cost_all_of_them() -> None:
    one = cost(job_pb2.DeepDream(steps=10, octaves=1, octave_scale=2, frames=1), PIXELS)
    assert cost(adversarial_pb2.DefenceAttack(steps=10), PIXELS) == 2 * one
    models = adversarial_pb2.TransferMatrix(steps=10, models=[{}, {}])
    assert cost(models, PIXELS) == 3 * one
    ensemble = adversarial_pb2.AttackEnsemble(steps=10, targets=2, queries=60)
    assert cost(ensemble, PIXELS) == pytest.approx((3 + 2) * one)  # 60 queries, a third of a pass each.


def test_a_substitute_costs_its_training_and_the_answers() -> None:
    shape = (1, 3, 64, 64)
    copy = sum(
        output[0].numel() * kernel[0].numel() for kernel, output in convolutions(build(5), torch.zeros(shape))
    )
    assert pytest.approx(copy / 64**2) == SUBSTITUTE_MODEL
    params = adversarial_pb2.Substitute(
        images=[{}] * 3, held_out=[{}], rounds=2, epochs=10, queries=10
    )  # The data: 3, 6, 10.
    trained = 3 * SUBSTITUTE_MODEL * PIXELS * 10 * (3 + 6 + 10)
    assert cost(params, 4 * PIXELS) == pytest.approx(trained + 13 * MANIFEST.multiply_adds)


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
    assert limits.admit(submission(params, 4096**2 + 2048**2))
