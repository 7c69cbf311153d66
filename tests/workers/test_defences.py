"""Defences against scikit-image and Pillow, and attacks that know of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.restoration import denoise_tv_chambolle
from support import techniques
from support.adversarial import drawings, make_task, photos

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2
from convlens_workers.techniques import begin
from convlens_workers.techniques.parts.defences import bit_depth, defence, jpeg, total_variation


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 24, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_bit_depth_leaves_so_many_levels(images: torch.Tensor) -> None:
    rounded = bit_depth(images, 3)
    assert torch.allclose(rounded.unique(), torch.arange(8, dtype=torch.float64) / 7)
    assert (rounded - images).abs().max() <= 0.5 / 7


def test_jpeg_is_what_pillow_decodes(images: torch.Tensor) -> None:
    decoded = jpeg(images.float(), 75)
    for before, after in zip(images, decoded, strict=True):
        pixels, file = np.rint(before.permute(1, 2, 0).numpy() * 255).astype(np.uint8), io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=75)
        assert np.array_equal(np.asarray(Image.open(file)), (after.permute(1, 2, 0) * 255).round().numpy())


@pytest.mark.parametrize("weight", [0.05, 0.3])
def test_total_variation_is_scikit_image_s(images: torch.Tensor, weight: float) -> None:
    smoothed = total_variation(images, weight, iterations=20)
    for before, after in zip(images, smoothed, strict=True):
        wanted = denoise_tv_chambolle(before.numpy(), weight=weight, eps=0, max_num_iter=21, channel_axis=0)
        assert np.abs(after.numpy() - wanted.clip(0, 1)).max() < 1e-12


@pytest.mark.parametrize("settings", [{"bit_depth": {"bits": 2}}, {"total_variation": {"weight": 0.2}}])
def test_an_image_is_defended_alike_whatever_lies_beside_it(images: torch.Tensor, settings: dict) -> None:
    defend = defence(adversarial_pb2.Defence(**settings))
    assert torch.equal(defend(images)[1:], defend(images[1:]))


def test_what_it_reports_can_be_measured_again() -> None:
    task = make_task(
        *drawings(6),
        lambda labels, images: adversarial_pb2.DefenceAttack(
            images=images, labels=labels, defence={"bit_depth": {"bits": 3}}, epsilon=4 / 255, steps=6
        ),
    )
    results = techniques.finished(begin("defence_attack", task))
    report, network = results["defence"], task.network
    labels = torch.tensor(task.params.labels)

    def right(images: torch.Tensor) -> torch.Tensor:
        return network.taps(images, ["logits"])["logits"].argmax(1) == labels

    defend = defence(task.params.defence)
    clean = right(defend(results["original"]))
    assert report.clean_accuracy == pytest.approx(clean.float().mean())
    assert report.plain_accuracy == pytest.approx((clean & right(defend(results["plain"]))).float().mean())
    assert report.accuracy == pytest.approx((clean & right(defend(results["adversarial"]))).float().mean())
    assert report.accuracy <= report.plain_accuracy <= report.clean_accuracy
    for name in ("plain", "adversarial"):
        assert (results[name] - results["original"]).abs().max() <= 4 / 255 + 1e-6
        assert results[name].min() >= 0
        assert results[name].max() <= 1
    assert [one.success for one in report.certificates] == (~right(defend(results["adversarial"]))).tolist()


def test_labels_are_one_an_image() -> None:
    task = make_task(
        *drawings(2),
        lambda labels, images: adversarial_pb2.DefenceAttack(
            images=images, labels=labels[:1], defence={"jpeg": {"quality": 75}}, epsilon=0.1, steps=1
        ),
    )
    with pytest.raises(InvalidArgument, match=r"defence_attack\.labels"):
        techniques.finished(begin("defence_attack", task))


@pytest.mark.slow
def test_behind_jpeg_bpda_leaves_a_quarter_of_what_plain_pgd_leaves(data: Path) -> None:
    task = make_task(
        *photos(data, 8),
        lambda labels, images: adversarial_pb2.DefenceAttack(
            images=images, labels=labels, defence={"jpeg": {"quality": 75}}, epsilon=0.5 / 255, steps=40
        ),
    )
    report = techniques.finished(begin("defence_attack", task))["defence"]
    assert report.clean_accuracy > 0.8
    assert report.undefended_accuracy == 0
    assert report.plain_accuracy >= 0.4
    assert report.accuracy <= report.plain_accuracy / 4
