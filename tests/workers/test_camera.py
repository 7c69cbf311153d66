"""How a camera sees pictures: poses, light, and blur."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.transform import ProjectiveTransform
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_workers.techniques.parts import camera
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.pixels import blur

WIDE = adversarial_pb2.Transforms(
    rotation=30, scale=0.2, perspective=0.1, brightness=0.1, contrast=0.2, noise=0.05
)
SIZE = (20, 28)


def pictures(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=generator(seed), dtype=dtype)


def test_what_changes_nothing_gives_the_picture_back() -> None:
    image, nothing = pictures(3), adversarial_pb2.Transforms()
    pose, light = (make(nothing, 3, SIZE, generator(0)) for make in (camera.poses, camera.light))
    torch.testing.assert_close(camera.seen(image, pose), image, atol=1e-5, rtol=0)
    assert torch.equal(light(image), image)
    assert torch.equal(blur(image, torch.zeros(3)), image)
    torch.testing.assert_close(camera.developed(image, torch.ones(3)), image)


@pytest.mark.parametrize("quarters", [-1, 1, 2])
def test_a_quarter_turn_is_one(quarters: int) -> None:
    image = pictures(1, dtype=torch.float64)[..., :20]
    angle, one = torch.tensor([90.0 * quarters], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    view = camera.seen(image, camera.turned(angle, one, (20, 20)))
    torch.testing.assert_close(view, torch.rot90(image, quarters, (2, 3)), atol=1e-12, rtol=0)


def test_half_the_scale_shows_a_small_picture_on_grey() -> None:
    image = torch.ones(1, 3, 16, 24)
    view = camera.seen(image, camera.turned(torch.zeros(1), torch.tensor([0.5]), (16, 24)))
    wanted = torch.full_like(image, camera.GREY)
    wanted[:, :, 4:12, 6:18] = 1
    inner = view[:, :, 5:11, 7:17], view[:, :, :3]
    torch.testing.assert_close(inner, (wanted[:, :, 5:11, 7:17], wanted[:, :, :3]))


def test_tilts_are_the_homographies_of_scikit_image() -> None:
    shifts = 0.2 * torch.rand(3, 4, 2, generator=generator(0), dtype=torch.float64) - 0.1
    corners = np.array(camera.CORNERS)
    for pose, shift in zip(camera.tilted(shifts), shifts, strict=True):
        wanted = ProjectiveTransform.from_estimate(corners, corners + 2 * shift.numpy())
        np.testing.assert_allclose(pose / pose[2, 2], wanted.params / wanted.params[2, 2], atol=1e-9)


def test_a_filled_frame_shows_nothing_but_the_picture_and_touches_its_edge() -> None:
    pose = camera.filled(camera.poses(WIDE, 50, SIZE, generator(0)))
    corners = torch.cat([torch.tensor(camera.CORNERS), torch.ones(4, 1)], 1) @ pose.mT
    reached = (corners[..., :2] / corners[..., 2:]).abs().amax((1, 2))
    assert float(reached.max()) <= 1 + 1e-5
    assert float((reached - 1).abs().median()) < 1e-5  # Those that were within it already stay as they are.
    straight = camera.filled(torch.eye(3)[None])
    assert torch.equal(straight, torch.eye(3)[None])


def test_each_picture_is_seen_in_its_own_pose_and_light() -> None:
    images = pictures(4)
    pose, light = (make(WIDE, 4, SIZE, generator(3)) for make in (camera.poses, camera.light))
    together = light(camera.seen(images, pose))
    for i in range(4):
        alone = camera.seen(images[i : i + 1], pose[i : i + 1])
        lit = camera.Light(light.contrast[i], light.brightness[i], light.noise[i])(alone)
        torch.testing.assert_close(together[i : i + 1], lit)
    one = camera.seen(images[:1], pose)
    torch.testing.assert_close(one[0], camera.seen(images, pose)[0])
    assert not torch.allclose(one[0], one[1], atol=0.1)


def test_draws_stay_within_their_ranges_and_follow_the_seed() -> None:
    light = camera.light(WIDE, 500, (2, 2), generator(0))
    assert float((light.contrast - 1).abs().max()) == pytest.approx(0.2, abs=0.01)
    assert float(light.brightness.abs().max()) == pytest.approx(0.1, abs=0.01)
    assert float(light.noise.std()) == pytest.approx(0.05 / 3**0.5, rel=0.1)
    first, same, other = (camera.poses(WIDE, 2, SIZE, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    only_turned = adversarial_pb2.Transforms(rotation=10)
    fixed = camera.poses(only_turned, 2, SIZE, generator(0), angle=25)
    assert torch.equal(fixed, camera.turned(torch.full((2,), 25.0), torch.ones(2), SIZE))


def test_what_is_held_out_is_none_of_what_was_drawn_before() -> None:
    firsts = {float(torch.rand(1, generator=generator(seed))) for seed in range(50)}
    unseen = {
        float(torch.rand(1, generator=camera.held_out(seed, n))) for seed in range(10) for n in range(5)
    }
    assert len(unseen) == 50
    assert not firsts & unseen
    again = camera.held_out(3, 2), camera.held_out(3, 2)
    assert len({float(torch.rand(1, generator=rng)) for rng in again}) == 1


def test_gradients_are_those_of_finite_differences() -> None:
    images = 0.3 + 0.4 * torch.rand(2, 3, 5, 6, generator=generator(0), dtype=torch.float64)
    calm = adversarial_pb2.Transforms(rotation=30, scale=0.2, perspective=0.1, contrast=0.2, brightness=0.1)
    pose = camera.poses(calm, 2, (5, 6), generator(1)).double()
    light = camera.light(calm, 2, (5, 6), generator(1))
    gamma = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([0.5, 1.1], dtype=torch.float64)

    def view(images: Tensor, pose: Tensor, gamma: Tensor) -> Tensor:
        return camera.developed(blur(light(camera.seen(images, pose)), sigma), gamma)

    inputs = images.requires_grad_(), pose.requires_grad_(), gamma
    assert torch.autograd.gradcheck(view, inputs, eps=1e-7, atol=1e-5)


def test_blur_is_that_of_scipy() -> None:
    image = pictures(2, dtype=torch.float64)
    for blurred, one, sigma in zip(blur(image, torch.tensor([0.6, 1.7])), image, (0.6, 1.7), strict=True):
        wanted = gaussian_filter(one.numpy(), sigma, axes=(1, 2), mode="nearest", radius=6)
        np.testing.assert_allclose(blurred, wanted, atol=1e-7)
