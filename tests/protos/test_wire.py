"""Arrays and pictures survive the wire, and damage does not go unseen."""

from __future__ import annotations

import io
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from support.parts import chunks, from_parts, to_parts

from convlens import wire
from convlens.errors import DataLoss, InvalidArgument
from convlens.v1 import tensor_pb2

ARRAYS = st.sampled_from(list(wire.NAMES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(st.dictionaries(st.text(max_size=8), ARRAYS, max_size=3))
def test_tensors_survive_the_stream(tensors):
    received = from_parts(
        tensor_pb2.TensorPart.FromString(part.SerializeToString()) for part in to_parts(tensors)
    )
    assert list(received) == list(tensors)
    for name, array in tensors.items():
        assert received[name].dtype == array.dtype
        np.testing.assert_array_equal(received[name], array)


@given(ARRAYS)
def test_tensors_survive_a_request(array):
    np.testing.assert_array_equal(wire.from_tensor(wire.to_tensor(array)), array)


@given(st.binary(max_size=100), st.integers(1, 40), st.integers(0, 1000))
def test_chunks_cover_the_bytes_in_order(data, size, offset):
    pieces = list(chunks(data, offset, size))
    assert b"".join(piece.data for piece in pieces) == data
    assert all(len(piece.data) == size for piece in pieces[:-1])
    assert all(after.offset == piece.offset + len(piece.data) for piece, after in pairwise(pieces))
    assert not pieces or pieces[0].offset == offset


def test_a_strided_view_is_sent_as_it_looks():
    view = np.arange(24, dtype="<f4").reshape(4, 6)[::2, ::-1]
    np.testing.assert_array_equal(from_parts(to_parts({"v": view}))["v"], view)


@pytest.fixture
def parts():
    """Header and three chunks of one tensor with a digest."""
    array = np.arange(30, dtype="<i4")
    pieces = chunks(array.view(np.uint8).data, size=50)
    head = tensor_pb2.TensorPart(header=wire.header("t", array, sha256=True))
    return [head, *(tensor_pb2.TensorPart(chunk=piece) for piece in pieces)]


def _flip(part):
    damaged = tensor_pb2.TensorPart()
    damaged.CopyFrom(part)
    damaged.chunk.data = bytes([part.chunk.data[0] ^ 1]) + part.chunk.data[1:]
    return damaged


def _forge(part):
    """A chunk whose checksum fits its wrong bytes: only the digest can tell."""
    data = b"\xff" + part.chunk.data[1:]
    return tensor_pb2.TensorPart(chunk=next(chunks(data, part.chunk.offset)))


DAMAGE = {
    "gap": lambda p: [p[0], p[1], p[3]],
    "repeated": lambda p: [p[0], p[1], p[1], p[2], p[3]],
    "no header": lambda p: p[1:],
    "short": lambda p: p[:-1],
    "overrun": lambda p: [*p, tensor_pb2.TensorPart(chunk=next(chunks(b"more", 120)))],
    "flipped bit": lambda p: [p[0], _flip(p[1]), p[2], p[3]],
    "forged": lambda p: [p[0], p[1], p[2], _forge(p[3])],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_seen(parts, damage):
    with pytest.raises(DataLoss):
        from_parts(damage(parts))


def test_a_broken_stream_goes_on_where_it_broke(parts):
    assembler = wire.Assembler()
    for part in (*parts[:2], parts[0], *parts[2:]):
        assembler.add(part)
    assert assembler.received == 120
    np.testing.assert_array_equal(assembler.finish()["t"], np.arange(30))


@pytest.mark.parametrize(
    "head",
    [
        {"datatype": "FP8", "shape": [2], "total_bytes": 2},
        {"datatype": "FP32", "shape": [2], "total_bytes": 7},
        {"datatype": "FP32", "shape": [-1, -1], "total_bytes": 4},
    ],
)
def test_a_header_that_contradicts_itself_is_refused(head):
    with pytest.raises(DataLoss, match="claims"):
        from_parts([tensor_pb2.TensorPart(header=tensor_pb2.TensorHeader(name="t", **head))])


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        ({"datatype": "FP8", "shape": [1], "data": b"a"}, "x.datatype"),
        ({"datatype": "UINT8", "shape": [-1, -1], "data": b"a"}, "x.shape"),
        ({"datatype": "UINT8", "shape": [3], "data": b"ab"}, "x.data"),
        ({"datatype": "UINT8", "shape": [0, 1 << 62, 1 << 62]}, "x.shape"),
        ({"datatype": "UINT8", "shape": [1] * 100, "data": b"a"}, "x.shape"),
    ],
)
def test_a_bad_request_tensor_names_its_field(tensor, field):
    with pytest.raises(InvalidArgument) as caught:
        wire.from_tensor(tensor_pb2.Tensor(**tensor), "x")
    assert caught.value.field == field


def test_an_element_type_without_a_name_is_refused():
    with pytest.raises(InvalidArgument, match=r"complex64.*FP32"):
        wire.to_tensor(np.zeros(2, np.complex64))


def _file(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_each_format_are_read(kind):
    flat = Image.new("RGB", (20, 10), (200, 100, 50))
    pixels = wire.decode_image(_file(flat, kind))
    assert pixels.shape == (10, 20, 3)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 3


def test_png_is_exact_both_ways():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    np.testing.assert_array_equal(wire.decode_image(wire.encode_image(pixels)), pixels)


def test_float_pixels_are_clipped_and_rounded_to_eight_bits():
    values = np.array([-1, 0.5 / 255 + 1e-6, 254.4 / 255, 2], np.float32)
    decoded = wire.decode_image(wire.encode_image(np.tile(values, (3, 1, 1))))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 1, 254, 255])


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (wire.decode_image(_file(clear, "PNG")) == 255).all()


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotated by 90 degrees.
    assert wire.decode_image(_file(image, "JPEG", exif=exif)).shape == (20, 10, 3)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.array([[0, 257, 32896, 65535]], np.uint16)
    decoded = wire.decode_image(_file(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(decoded[0, :, 1], [0, 1, 128, 255])


def test_the_transparent_grey_of_sixteen_bits_is_white():
    ramp = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    decoded = wire.decode_image(_file(ramp, "PNG", transparency=257))
    np.testing.assert_array_equal(decoded[0, :, 1], [0, 255, 128, 255])


def test_pixels_that_were_normalised_and_brought_back_are_pixels():
    mean, std = np.float32([[0.485], [0.456], [0.406]]), np.float32([[0.229], [0.224], [0.225]])
    pixels = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (3, 1))
    back = ((pixels - mean) / std - -mean / std) / (1 / std)  # By torchvision's Normalize, twice.
    assert back.max() > 1
    clipped = wire.within_unit(back - np.float32(2.98e-8), "pixels")
    assert (clipped.min(), clipped.max()) == (0, 1)
    np.testing.assert_allclose(clipped, pixels, atol=wire.ROUNDING)


@pytest.mark.parametrize("value", [-2e-6, 1 + 2e-6, np.nan, np.inf])
def test_pixels_beyond_rounding_are_refused_with_the_number_that_is_outside(value: float):
    with pytest.raises(InvalidArgument, match=re.escape(f"{np.float32(value):.9g}")):
        wire.within_unit(np.array([0.5, value], np.float32), "pixels")


def _animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return _file(frames[0], "WEBP", save_all=True, append_images=frames[1:])


PHOTO = _file(Image.effect_noise((64, 64), 50), "PNG")
REFUSED = {
    "gif": (_file(Image.new("RGB", (8, 8)), "GIF"), "PNG, JPEG, WEBP"),
    "animated": (_animation(), "one frame"),
    "truncated": (PHOTO[: len(PHOTO) // 2], "whole"),
    "text": (b"not a picture", "whole"),
    "empty": (b"", "whole"),
}


@pytest.mark.parametrize(("data", "allowed"), REFUSED.values(), ids=REFUSED)
def test_other_files_are_refused(data, allowed):
    with pytest.raises(InvalidArgument, match=allowed) as caught:
        wire.decode_image(data, "images[0].encoded")
    assert caught.value.field == "images[0].encoded"


def test_the_size_is_checked_before_pixels_are_made(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were made"))
    with pytest.raises(InvalidArgument, match="64 x 64 pixels"):
        wire.decode_image(PHOTO, max_pixels=4095)
