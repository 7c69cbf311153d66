"""BIM, PGD and MeasureRobustness through a real server: what they promise, and the alarms."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.replies import error_of, tensors_of
from support.server_thread import serving

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import attack_pb2, attack_pb2_grpc, image_pb2, inspection_pb2, inspection_pb2_grpc
from convlens_models.importing.importer import add_architecture
from convlens_models.repository import ModelRepository
from convlens_server.quick.robustness import alarms

LINF = attack_pb2.NORM_LINF
L2 = attack_pb2.NORM_L2


@pytest.fixture
def stub(channel: grpc.Channel):
    return attack_pb2_grpc.AttackServiceStub(channel)


@pytest.fixture(scope="module")
def images(pixels) -> list[image_pb2.Image]:
    shifted = [np.roll(pixels, shift, axis=1) for shift in (0, 30, 60)]
    return [image_pb2.Image(encoded=wire.encode_image(picture)) for picture in shifted]


@pytest.fixture(scope="module")
def labels(channel, images) -> list[int]:
    stub = inspection_pb2_grpc.InspectionServiceStub(channel)
    reply = stub.Classify(inspection_pb2.ClassifyRequest(images=images, top_k=1))
    return [item.predictions[0].index for item in reply.classifications]


def attack(stub, images, **fields: Any):
    return tensors_of(stub.Attack(attack_pb2.AttackRequest(images=images, **fields)))


PROMISES = {
    "bim": {"bim": {"epsilon": 0.02, "steps": 5}},
    "bim with long steps": {"bim": {"epsilon": 0.02, "step_size": 0.5, "steps": 3}},
    "bim targeted": {"bim": {"epsilon": 0.02, "steps": 3}, "targeted": {"index": 4}},
    "pgd": {"pgd": {"epsilon": 0.02, "steps": 4}},
    "pgd with restarts": {"pgd": {"epsilon": 0.02, "steps": 2, "restarts": 3, "seed": 5}},
    "pgd from the image": {"pgd": {"epsilon": 0.02, "steps": 3, "start_at_image": True}},
    "pgd in L2": {"pgd": {"norm": L2, "epsilon": 0.7, "steps": 4}},
    "pgd in L2 with long steps": {"pgd": {"norm": L2, "epsilon": 0.7, "step_size": 9, "steps": 3}},
    "pgd in L2 targeted": {"pgd": {"norm": L2, "epsilon": 3, "steps": 3}, "targeted": {"index": 4}},
}


@pytest.mark.parametrize("name", PROMISES)
def test_changes_stay_within_the_ball_and_in_range(stub, images, name) -> None:
    fields = PROMISES[name]
    result, tensors = attack(stub, images, **fields)
    original, adversarial = tensors["original"], tensors["adversarial"]
    assert list(tensors) == ["original", "gradient_sign", "adversarial"]
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    params = fields.get("pgd") or fields["bim"]
    delta = (adversarial.astype(np.float64) - original).reshape(len(images), -1)
    order = 2 if params.get("norm") == L2 else np.inf
    lengths = np.linalg.norm(delta, order, axis=1)
    assert lengths.max() <= params["epsilon"] * (1 + 1e-5)
    assert lengths.min() > 0
    steps, restarts = params["steps"], params.get("restarts", 1)
    queries = steps if restarts == 1 else restarts * (steps + 1)
    assert {item.queries for item in result.certificates} == {queries}
    for item, vector in zip(result.certificates, delta, strict=True):
        assert item.linf == pytest.approx(np.abs(vector).max(), abs=1e-7)
        assert item.l2 == pytest.approx(np.linalg.norm(vector), rel=1e-5)
    assert set(np.unique(tensors["gradient_sign"])) <= {-1, 0, 1}


def test_one_step_of_bim_is_fgsm(stub, images) -> None:
    _, one = attack(stub, images, bim={"epsilon": 0.05, "step_size": 0.05, "steps": 1})
    _, fgsm = attack(stub, images, fgsm={"epsilon": 0.05})
    assert np.abs(one["adversarial"] - fgsm["adversarial"]).max() < 1e-6
    assert np.array_equal(one["gradient_sign"], fgsm["gradient_sign"])


def test_bim_is_pgd_from_the_image(stub, images) -> None:
    bim = attack(stub, images, bim={"epsilon": 0.03, "steps": 4})
    pgd = attack(stub, images, pgd={"epsilon": 0.03, "steps": 4, "start_at_image": True})
    assert np.array_equal(bim[1]["adversarial"], pgd[1]["adversarial"])
    assert bim[0] == pgd[0]


@pytest.mark.parametrize("norm", [LINF, L2])
def test_the_seed_decides_the_starts(stub, images, norm) -> None:
    found = [
        attack(stub, images, pgd={"norm": norm, "steps": 1, "seed": seed})[1]["adversarial"]
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_an_image_fares_alike_alone_and_in_a_batch(stub, images) -> None:
    fields = {"bim": {"epsilon": 0.02, "steps": 3}}
    _, together = attack(stub, images, **fields)
    _, alone = attack(stub, images[1:2], **fields)
    assert np.abs(together["adversarial"][1] - alone["adversarial"][0]).max() <= 0.02 * 2
    assert np.isclose(together["adversarial"][1], alone["adversarial"][0], atol=1e-5).mean() > 0.95


def test_the_start_is_of_the_image_alone_bit_for_bit(stub, images) -> None:
    """A step of nothing from the random start; five images, the one in question at three places."""
    one, two, three = images
    for norm in (LINF, L2):
        fields = {"pgd": {"norm": norm, "steps": 1, "step_size": 1e-30, "seed": 9}}
        _, alone = attack(stub, [two], **fields)
        for batch, places in (([two, one, three, one, two], (0, 4)), ([one, three, two, one, one], (2,))):
            _, together = attack(stub, batch, **fields)
            for place in places:
                assert np.array_equal(together["adversarial"][place], alone["adversarial"][0])
        changes = together["adversarial"] - together["original"]
        assert not np.isclose(changes[0], changes[1]).mean() > 0.1  # Each has starts of its own.


@pytest.mark.parametrize("norm", [LINF, L2])
def test_a_photo_fares_alike_alone_and_among_others(stub, images, norm) -> None:
    """Restarts too; up to what rounding in another batch makes of signs of gradients near 0."""
    fields = {"pgd": {"norm": norm, "steps": 3, "restarts": 3, "seed": 4}}
    _, alone = attack(stub, images[1:2], **fields)
    _, together = attack(stub, [*images, *images[:2]], **fields)
    for place in (1, 4):
        same = np.isclose(together["adversarial"][place], alone["adversarial"][0], atol=1e-5)
        assert same.mean() > 0.95


def test_restarts_never_do_worse(stub, images) -> None:
    successes = [
        sum(
            item.success
            for item in attack(stub, images, pgd={"epsilon": 0.004, "steps": 2, "restarts": n})[
                0
            ].certificates
        )
        for n in (1, 4)
    ]
    assert successes[1] >= successes[0]


def measure(stub, images, labels, **fields: Any):
    replies = list(
        stub.MeasureRobustness(
            attack_pb2.MeasureRobustnessRequest(images=images, labels=labels, **fields), timeout=120
        )
    )
    assert [reply.WhichOneof("part") for reply in replies] == ["point"] * (len(replies) - 1) + ["alarms"]
    return [reply.point for reply in replies[:-1]], replies[-1].alarms


@pytest.mark.parametrize(
    "technique",
    [{"fgsm": {}}, {"bim": {"steps": 3}}, {"pgd": {"steps": 3}}, {"pgd": {"steps": 3, "norm": L2}}],
    ids=str,
)
def test_the_curve_falls_from_the_clean_accuracy(stub, images, labels, technique) -> None:
    points, found = measure(stub, images, labels, **technique)
    assert points[0].epsilon == 0
    assert points[0].accuracy == points[0].noise_accuracy == 1
    assert points[-1].accuracy == 0
    assert all(point.zero_gradient_share == 0 for point in points)
    assert [point.epsilon for point in points] == sorted({point.epsilon for point in points})
    assert not found.zero_gradients
    assert not found.survives_full_range
    whole_range = np.sqrt(3 * 96 * 96) if technique.get("pgd", {}).get("norm") == L2 else 1
    assert points[-1].epsilon == pytest.approx(whole_range)


def test_wrong_labels_are_wrong_at_every_epsilon(stub, images, labels) -> None:
    wrong = [(label + 1) % 10 for label in labels]
    points, _ = measure(stub, images, wrong, fgsm={}, epsilons=[0, 0.1])
    assert [point.accuracy for point in points] == [0, 0]


def test_points_are_what_the_attack_alone_leaves(stub, images, labels) -> None:
    points, _ = measure(stub, images, labels, bim={"steps": 2}, epsilons=[0.001, 0.02])
    for point in points:
        result, _ = attack(
            stub, images, bim={"steps": 2, "epsilon": point.epsilon}, untargeted={"labels": labels}
        )
        assert point.accuracy == pytest.approx(np.mean([not item.success for item in result.certificates]))


def test_noise_and_starts_of_a_curve_are_each_images_own(stub, images, labels) -> None:
    """The curve of all images is the mean of the curves of each."""
    fields = {"pgd": {"steps": 1, "step_size": 1e-30}, "epsilons": [0.1, 0.3]}
    whole, _ = measure(stub, images, labels, **fields)
    each = [measure(stub, images[i : i + 1], labels[i : i + 1], **fields)[0] for i in range(len(images))]
    for name in ("accuracy", "noise_accuracy"):
        found = [getattr(point, name) for point in whole]
        means = np.mean([[getattr(point, name) for point in points] for points in each], axis=0)
        assert found == pytest.approx(means.tolist())


def test_saturation_is_an_alarm(tmp_path, images, labels) -> None:
    """Scores ten thousand times as large leave float32 no gradient of the cross entropy."""
    stored = ModelRepository().get()
    weights = load_file(stored.file("weights.safetensors"))
    for factor, name in ((1, "plain"), (30, "certain"), (10_000, "saturated")):
        scaled = {
            key: value * (factor if key.startswith("classifier.") else 1) for key, value in weights.items()
        }
        save_file(scaled, tmp_path / "w.safetensors")
        add_architecture(tmp_path / "m", "patterns", tmp_path / "w.safetensors", name=name)
    raised = {}
    with serving(models=tmp_path / "m") as app, grpc.insecure_channel(app.address) as channel:
        for name in ("plain", "certain", "saturated"):
            found = measure(
                attack_pb2_grpc.AttackServiceStub(channel), images, labels, model={"name": name}, fgsm={}
            )
            raised[name] = (
                found[1].saturated_gradients,
                found[0][-2].accuracy,
                found[0][1].zero_gradient_share,
            )
    assert raised["plain"][0] is False
    assert raised["saturated"][0] is True
    assert raised["saturated"][2] > 0
    assert raised["certain"][0] is False
    assert raised["certain"][1:] == raised["plain"][1:]  # Just as easily fooled.


def point(epsilon: float, accuracy: float, noise: float = 1.0, zero: float = 0.0):
    return attack_pb2.RobustnessPoint(
        epsilon=epsilon, accuracy=accuracy, noise_accuracy=noise, zero_gradient_share=zero
    )


ALARMS = {
    "none": ([point(0, 1), point(1, 0)], set()),
    "zero gradients": ([point(0, 1, zero=0.1), point(1, 0)], {"zero_gradients"}),
    "noise beats the attack": ([point(0.1, 0.5, 0.4), point(1, 0)], {"noise_beats_attack"}),
    "survives": ([point(0, 1), point(1, 0.2)], {"survives_full_range"}),
    "guessing is no survival": ([point(0, 1), point(1, 0.1)], set()),
    "survives less than everything": ([point(0, 1), point(0.5, 0.9)], set()),
    "one image up": ([point(0.1, 0.5), point(0.2, 0.6)], set()),
    "two images up": ([point(0.1, 0.5), point(0.2, 0.7)], {"not_monotone"}),
}


@pytest.mark.parametrize("name", ALARMS)
def test_alarms(name) -> None:
    points, expected = ALARMS[name]
    found = alarms(points, count=10, classes=20, whole_range=1.0)
    assert {field.name for field, value in found.ListFields() if value} == expected


BAD = {
    "no labels": ({"labels": []}, "labels", "between 1 and 256"),
    "too few labels": ({"labels": [1]}, "labels", "3 items, one an image"),
    "label of no class": ({"labels": [1, 2, 999]}, "labels[2]", "between 0 and"),
    "negative label": ({"labels": [1, -2, 3]}, "labels[1]", "between 0 and"),
    "falling epsilons": ({"epsilons": [0.2, 0.1]}, "epsilons[1]", "above 0.2"),
    "equal epsilons": ({"epsilons": [0.25, 0.25]}, "epsilons[1]", "above 0.25"),
    "negative epsilon": ({"epsilons": [-0.1]}, "epsilons[0]", "at least 0"),
    "NaN": ({"epsilons": [0.1, float("nan")]}, "epsilons[1]", "finite"),
    "epsilon in 255ths": ({"epsilons": [0, 8]}, "epsilons[1]", "at most 1"),
    "too many epsilons": ({"epsilons": [i / 100 for i in range(65)]}, "epsilons", "at most 64"),
    "no technique": ({"fgsm": None}, "technique", "one of fgsm, bim, pgd"),
    "no steps": ({"fgsm": None, "pgd": {"steps": 0}}, "pgd.steps", "between 1 and 1000"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_measurements_are_told_what_is_wrong(stub, images, labels, name) -> None:
    fields, field, text = BAD[name]
    fields = {"images": images, "labels": labels, "fgsm": {}, **fields}
    error = error_of(stub.MeasureRobustness, attack_pb2.MeasureRobustnessRequest(**fields))
    assert isinstance(error, InvalidArgument)
    assert error.field == field
    assert text in error.message


BAD_ATTACKS = {
    "bim epsilon": ({"bim": {"epsilon": 1.5}}, "bim.epsilon", "between 0 and 1"),
    "bim step": ({"bim": {"step_size": 0}}, "bim.step_size", "above 0"),
    "pgd epsilon in 255ths": ({"pgd": {"epsilon": 8}}, "pgd.epsilon", "between 0 and 1 for L-infinity"),
    "pgd restarts": ({"pgd": {"restarts": 101}}, "pgd.restarts", "between 1 and 100"),
    "restarts at the image": ({"pgd": {"restarts": 2, "start_at_image": True}}, "pgd.restarts", "1 with"),
    "negative label": (
        {"bim": {}, "untargeted": {"labels": [-1, 0, 0]}},
        "untargeted.labels[0]",
        "between 0",
    ),
    "NaN step": ({"pgd": {"step_size": float("nan")}}, "pgd.step_size", "finite"),
}


@pytest.mark.parametrize("name", BAD_ATTACKS)
def test_bad_attacks_are_told_what_is_wrong(stub, images, name) -> None:
    fields, field, text = BAD_ATTACKS[name]
    error = error_of(stub.Attack, attack_pb2.AttackRequest(images=images, **fields))
    assert isinstance(error, InvalidArgument)
    assert error.field == field
    assert text in error.message
