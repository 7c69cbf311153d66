"""Attack through a real server: what FGSM promises, and what its certificate says, measured again."""

from __future__ import annotations

import math
from typing import Any

import grpc
import numpy as np
import pytest
from support.replies import tensors_of

from convlens import wire
from convlens.v1 import attack_pb2, attack_pb2_grpc, image_pb2, inspection_pb2, inspection_pb2_grpc

EPSILON = 8 / 255


@pytest.fixture
def run(channel: grpc.Channel, image: image_pb2.Image):
    def run(**fields: Any):
        request = attack_pb2.AttackRequest(**{"images": [image], "fgsm": {}, **fields})
        return tensors_of(attack_pb2_grpc.AttackServiceStub(channel).Attack(request))

    return run


@pytest.fixture
def best(channel: grpc.Channel):
    """The prediction for one input (3, H, W)."""

    def best(pixels: np.ndarray):
        image = image_pb2.Image(tensor=wire.to_tensor(pixels))
        stub = inspection_pb2_grpc.InspectionServiceStub(channel)
        return stub.Classify(inspection_pb2.ClassifyRequest(images=[image])).classifications[0].predictions[0]

    return best


def test_reply_has_three_tensors_of_the_image(run):
    result, tensors = run()
    assert list(tensors) == ["original", "gradient_sign", "adversarial"]
    assert {value.shape for value in tensors.values()} == {(1, 3, 96, 96)}
    assert set(np.unique(tensors["gradient_sign"])) <= {-1, 0, 1}
    assert tensors["adversarial"].min() >= 0
    assert tensors["adversarial"].max() <= 1
    assert len(result.certificates) == 1


@pytest.mark.parametrize("goal", [{}, {"untargeted": {"labels": [3]}}, {"targeted": {"index": 5}}], ids=str)
@pytest.mark.parametrize("epsilon", [1 / 255, EPSILON, 0.3])
def test_every_pixel_moves_by_epsilon_or_stays_before_clipping(run, goal, epsilon):
    _, tensors = run(fgsm={"epsilon": epsilon}, **goal)
    away = -1 if "targeted" in goal else 1
    stepped = tensors["original"] + np.float32(away * epsilon) * tensors["gradient_sign"]
    assert np.array_equal(tensors["adversarial"], np.clip(stepped, 0, 1))


def test_epsilon_zero_is_the_identity(run):
    result, tensors = run(fgsm={"epsilon": 0})
    assert np.array_equal(tensors["adversarial"], tensors["original"])
    assert (result.certificates[0].linf, result.certificates[0].l2) == (0, 0)
    assert not result.certificates[0].success


def test_untargeted_lowers_and_targeted_raises_the_probability(run, best):
    certificate = run(fgsm={"epsilon": 2 / 255})[0].certificates[0]
    _, tensors = run(fgsm={"epsilon": 2 / 255})
    assert certificate.before == best(tensors["original"][0])
    if certificate.after.index == certificate.before.index:
        assert certificate.after.probability < certificate.before.probability
    else:
        assert certificate.success


def test_labels_decide_what_is_left(run):
    predicted = run()[0].certificates[0].before.index
    other = (predicted + 1) % 10
    certificate = run(fgsm={"epsilon": 0}, untargeted={"labels": [other]})[0].certificates[0]
    assert certificate.success  # It was never taken for that class.
    assert certificate.met_before
    certificate = run(fgsm={"epsilon": 0}, targeted={"index": predicted})[0].certificates[0]
    assert certificate.success
    assert certificate.met_before  # It was taken for it already.
    certificate = run(fgsm={"epsilon": 0}, targeted={"index": other})[0].certificates[0]
    assert not certificate.success
    assert not certificate.met_before
    assert not run()[0].certificates[0].met_before


@pytest.mark.parametrize("goal", [{}, {"targeted": {"index": 5}}], ids=str)
def test_certificate_is_true(run, best, image, goal):
    result, tensors = run(images=[image, image], fgsm={"epsilon": EPSILON}, **goal)
    for position, found in enumerate(result.certificates):
        original, adversarial = (
            tensors[name][position].astype(np.float64) for name in ("original", "adversarial")
        )
        encoded = wire.decode_image(wire.encode_image(tensors["adversarial"][position])).transpose(2, 0, 1)
        encoded = (encoded / np.float32(255)).astype(np.float32)
        assert found.linf == pytest.approx(np.abs(adversarial - original).max())
        assert found.linf == pytest.approx(EPSILON, rel=1e-4)
        assert found.l2 == pytest.approx(math.sqrt(((adversarial - original) ** 2).sum()))
        assert found.linf_after_encoding == pytest.approx(np.abs(encoded - original).max())
        before, after, after_encoding = (best(x.astype(np.float32)) for x in (original, adversarial, encoded))
        for measured, claimed in (
            (before, found.before),
            (after, found.after),
            (after_encoding, found.after_encoding),
        ):
            assert (claimed.index, claimed.label) == (measured.index, measured.label)
            assert claimed.probability == pytest.approx(measured.probability, abs=1e-5)
        wanted = {5} if goal else set(range(100)) - {before.index}
        assert found.success == (after.index in wanted)
        assert found.success_after_encoding == (after_encoding.index in wanted)
        assert found.queries == 1
