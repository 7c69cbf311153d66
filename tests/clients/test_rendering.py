"""Pictures show what the tensors hold."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convlens.errors import InvalidArgument
from convlens_client import rendering


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_photo_rounds_and_clips():
    pixels = np.array([-1, 0, 0.5, 1, 2]).reshape(1, 1, 5).repeat(3, axis=0)
    assert rendering.photo(pixels)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_nothing_is_grey_in_a_signed_map_and_the_sign_is_the_side():
    attribution = np.zeros((3, 4, 4))
    attribution[0, 0, 0], attribution[1, 0, 0] = 2, -2
    picture = rendering.signed(attribution)
    assert picture[0, 0].tolist() == [255, 0, 128]
    assert (picture[1:] == 128).all()


def test_a_few_extreme_pixels_do_not_hide_the_rest(rng):
    attribution = rng.normal(size=(3, 64, 64))
    attribution[0, 0, 0] = 1e6
    assert rendering.signed(attribution).std() > 30


@pytest.mark.parametrize("render", [rendering.signed, rendering.magnitude, rendering.signs])
def test_an_empty_map_is_flat(render):
    assert np.ptp(render(np.zeros((3, 8, 8)))) == 0


def test_magnitude_is_grey_and_largest_over_channels():
    attribution = np.zeros((3, 2, 2))
    attribution[:, 0, 1], attribution[2, 1, 1] = [1, -4, 2], 2
    picture = rendering.magnitude(attribution, percentile=100)
    assert picture[..., 0].tolist() == [[0, 255], [0, 128]]
    assert (picture == picture[..., :1]).all()


def test_signs_are_black_grey_and_white():
    picture = rendering.signs(np.array([-1, 0, 1]).reshape(1, 1, 3).repeat(3, axis=0))
    assert picture[0, :, 0].tolist() == [0, 128, 255]


def test_each_filter_uses_its_own_range(rng):
    weights = rng.normal(size=(4, 3, 5, 5)) * np.array([1, 10, 100, 1000]).reshape(4, 1, 1, 1)
    picture = rendering.kernels(weights, tile=5)
    assert picture.shape == (11, 11, 3)
    for top in (0, 6):
        for left in (0, 6):
            tile = picture[top : top + 5, left : left + 5]
            assert (tile.min(), tile.max()) == (0, 255)
    assert (picture[5] == 128).all()


def test_deeper_filters_are_a_row_of_grey_tiles_each(rng):
    assert rendering.kernels(rng.normal(size=(64, 256, 3, 3))).shape == (64 * 4 - 1, 256 * 4 - 1, 3)
    assert rendering.kernels(rng.normal(size=(7, 16, 3, 3))).shape == (27 * 8, 63 * 8, 3)


def test_weights_without_extent_are_one_tile(rng):
    weights = rng.normal(size=(10, 600))
    picture = rendering.kernels(weights)
    assert picture.shape == (10, 600, 3)
    assert (picture.min(), picture.max()) == (0, 255)
    np.testing.assert_array_equal(rendering.kernels(weights[..., None, None]), picture)


def test_huge_layers_are_cut_to_a_picture_that_can_be_opened():
    picture = rendering.kernels(np.zeros((600, 2048, 1, 3), np.float32))
    assert max(picture.shape) <= rendering.MAX_SIDE


def test_feature_maps_are_scaled_by_channel_or_by_layer():
    value = np.stack([np.linspace(0, 1, 16), np.linspace(0, 100, 16)]).reshape(2, 4, 4)
    by_channel = rendering.feature_maps(value, "channel", tile=4)
    by_layer = rendering.feature_maps(value, "layer", tile=4)
    assert by_channel.shape == by_layer.shape == (4, 9, 3)
    assert by_channel[:, :4].max() == 255
    assert by_layer[:, :4].max() < 5
    assert by_layer[:, 5:].max() == 255


def test_small_tiles_are_enlarged_with_whole_pixels():
    picture = rendering.enlarge(np.arange(4, dtype=np.uint8).reshape(2, 2), 7)
    assert picture.shape == (8, 8)
    assert (picture[:4, 4:] == 1).all()


def test_a_vector_becomes_bars():
    picture = rendering.feature_maps(np.array([0.0, 0.5, 1.0]))[..., 0]
    dark = (picture < 100).sum(axis=0)
    assert dark[0] == 0
    assert dark[picture.shape[1] // 2] == 60
    assert dark[-1] == 120


def test_a_sheet_holds_all_pictures_and_room_for_captions(rng):
    small, large = rng.integers(0, 255, (10, 20, 3), np.uint8), rng.integers(0, 255, (300, 300, 3), np.uint8)
    picture = rendering.sheet([("one", small), ("two\nlines of it", large)], height=100)
    assert picture.shape[1] == 200 + 100 + 30
    assert picture.shape[0] > 100 + 30
    assert (picture[115:] < 100).any()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.npy", "A.PNG"])
def test_the_ending_decides_what_is_written(tmp_path, name, rng):
    tensor, picture = rng.normal(size=(2, 3)), rng.integers(0, 255, (4, 5, 3), np.uint8)
    rendering.save(tmp_path / name, tensor, picture)
    if name.endswith(".npy"):
        np.testing.assert_array_equal(np.load(tmp_path / name), tensor)
    else:
        with Image.open(tmp_path / name) as image:
            assert image.size == (5, 4)


@pytest.mark.parametrize(
    ("name", "allowed"), [("a.txt", r"\.npy, \.png"), ("missing/a.png", "folder that exists")]
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, name, allowed):
    with pytest.raises(InvalidArgument, match=allowed):
        rendering.save(tmp_path / name, np.zeros(1), np.zeros((2, 2, 3), np.uint8))
