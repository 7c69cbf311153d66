"""Pictures to inputs: sizes, defaults, ranges, refusals."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as PILImage

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository

PATTERNS = ModelRepository().get().manifest  # 96 pixels, any size from 15.
FIXED = PATTERNS.model_copy(update={"dynamic_size": False, "min_size": 96})
Resize = image_pb2.Resize
RNG = np.random.default_rng(0)


def encoded(height: int, width: int, **options) -> image_pb2.Image:
    pixels = RNG.integers(0, 256, (height, width, 3), np.uint8)
    return image_pb2.Image(encoded=wire.encode_image(pixels), **options)


def tensor(array: np.ndarray, **options) -> image_pb2.Image:
    return image_pb2.Image(tensor=wire.to_tensor(array), **options)


def floats(height: int, width: int) -> np.ndarray:
    return RNG.random((3, height, width), np.float32)


SIZES = {
    "file, default": (encoded(200, 300), (96, 96)),
    "tensor, default": (tensor(floats(50, 60)), (50, 60)),
    "bytes, default": (tensor(np.zeros((50, 60, 3), np.uint8)), (50, 60)),
    "short side of a tensor": (tensor(floats(50, 60), resize=Resize(short_side={})), (96, 96)),
    "crop": (encoded(200, 300, resize=Resize(short_side={"crop": 40})), (40, 40)),
    "size and crop": (encoded(200, 300, resize=Resize(short_side={"size": 64, "crop": 64})), (64, 64)),
    "exact": (encoded(200, 300, resize=Resize(exact={"height": 30, "width": 70})), (30, 70)),
    "fit": (encoded(200, 300, resize=Resize(fit={"max_side": 150})), (100, 150)),
    "fit never enlarges": (encoded(40, 30, resize=Resize(fit={"max_side": 150})), (40, 30)),
    "but where it is told to": (
        encoded(40, 30, resize=Resize(fit={"max_side": 60, "enlarge": True})),
        (60, 45),
    ),
    "by the shorter side": (
        encoded(200, 300, resize=Resize(fit={"max_side": 150, "shorter": True})),
        (150, 225),
    ),
    "shorter side up": (
        encoded(40, 30, resize=Resize(fit={"max_side": 60, "shorter": True, "enlarge": True})),
        (80, 60),
    ),
    "shorter side not up": (
        encoded(40, 30, resize=Resize(fit={"max_side": 60, "shorter": True})),
        (40, 30),
    ),
    "keep": (encoded(200, 301, resize=Resize(keep={})), (200, 301)),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes(case: str):
    image, size = SIZES[case]
    actual = to_input(image, PATTERNS)
    assert actual.shape == (3, *size)
    assert actual.dtype == np.float32
    assert actual.flags.c_contiguous
    assert 0 <= actual.min() <= actual.max() <= 1


def test_jobs_keep_the_size_of_files():
    assert to_input(encoded(50, 60), PATTERNS, "keep").shape == (3, 50, 60)


def test_the_default_is_imagenets_evaluation():
    pixels = RNG.integers(0, 256, (200, 331, 3), np.uint8)
    scaled = PILImage.fromarray(pixels).resize((331 * 110 // 200, 110), PILImage.Resampling.BILINEAR)
    left = round((scaled.width - 96) / 2)
    expected = np.asarray(scaled)[7:103, left : left + 96].transpose(2, 0, 1) / np.float32(255)
    actual = to_input(image_pb2.Image(encoded=wire.encode_image(pixels)), PATTERNS)
    np.testing.assert_array_equal(actual, expected)


def test_bytes_floats_and_files_of_the_same_pixels_agree():
    pixels = RNG.integers(0, 256, (40, 50, 3), np.uint8)
    planes = pixels.transpose(2, 0, 1) / np.float32(255)
    file = to_input(image_pb2.Image(encoded=wire.encode_image(pixels)), PATTERNS, "keep")
    np.testing.assert_array_equal(to_input(tensor(pixels), PATTERNS), file)
    np.testing.assert_array_equal(to_input(tensor(planes), PATTERNS), file)
    resize = Resize(exact={"height": 20, "width": 20})
    small = [to_input(tensor(value, resize=resize), PATTERNS) for value in (pixels, planes)]
    np.testing.assert_allclose(*small, atol=1.1 / 255)


def test_a_kept_tensor_is_bit_equal():
    array = floats(20, 33)
    np.testing.assert_array_equal(to_input(tensor(array), PATTERNS), array)


def nan() -> np.ndarray:
    array = floats(20, 20)
    array[0, 3, 3] = np.nan
    return array


REFUSED = {
    "garbage": (image_pb2.Image(encoded=b"GIF89a..."), r"image\.encoded"),
    "float64": (tensor(np.zeros((3, 20, 20))), r"image\.tensor = 'FP64 \[3, 20, 20\]'"),
    "channels last floats": (
        tensor(np.zeros((20, 20, 3), np.float32)),
        r"UINT8 of shape \(H, W, 3\) or FP32",
    ),
    "a batch": (tensor(np.zeros((1, 3, 20, 20), np.float32)), "FP32 of shape"),
    "empty": (tensor(np.zeros((3, 0, 20), np.float32)), "FP32 of shape"),
    "over one": (tensor(floats(20, 20) * 2), r"values from .*: must be finite and within \[0, 1\]"),
    "below zero": (tensor(floats(20, 20) - 1), "values from "),
    "nan": (tensor(nan()), "values from nan"),
    "infinite": (tensor(np.full((3, 20, 20), np.inf, np.float32)), "values from inf"),
    "too small": (
        tensor(floats(14, 20)),
        "14 x 20 pixels.*: must be between 15 and 4096 a side for patterns",
    ),
    "too large": (encoded(10, 4097, resize=Resize(keep={})), "10 x 4097 pixels"),
    "crop over size": (
        encoded(20, 20, resize=Resize(short_side={"size": 50, "crop": 60})),
        r"image\.resize\.short_side\.crop = 60: must be at most the size of the short side, 50",
    ),
    "a needle": (encoded(1, 5000), "pixels.*when scaled"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_field_value_and_what_is_allowed(case: str):
    image, message = REFUSED[case]
    with pytest.raises(InvalidArgument, match=message):
        to_input(image, PATTERNS)


def test_a_network_of_one_size_accepts_no_other():
    assert to_input(tensor(floats(96, 96)), FIXED).shape == (3, 96, 96)
    assert to_input(encoded(300, 200), FIXED).shape == (3, 96, 96)
    with pytest.raises(
        InvalidArgument, match=r"images\[2\] = '96 x 97 pixels': must be 96 x 96, the one size"
    ):
        to_input(tensor(floats(96, 97)), FIXED, field="images[2]")


def test_a_photo_lies_on_its_side_no_longer():
    buffer = io.BytesIO()
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    assert to_input(image_pb2.Image(encoded=buffer.getvalue()), PATTERNS, "keep").shape == (3, 40, 20)
