"""Each kind of image becomes the right request."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens import wire
from convlens.errors import InvalidArgument, NotFound
from convlens.v1 import image_pb2 as pb
from convlens_client.images import to_image, to_images


@pytest.fixture
def png(tmp_path, pixels):
    path = tmp_path / "a.png"
    path.write_bytes(wire.encode_image(pixels))
    return path


def test_a_file_is_sent_as_it_is(png):
    for image in (png, str(png), png.read_bytes()):
        assert to_images(image) == [pb.Image(encoded=png.read_bytes())]


def test_a_pillow_image_means_the_same_as_its_file(png, pixels):
    (sent,) = to_images(Image.open(png))
    np.testing.assert_array_equal(wire.decode_image(sent.encoded), pixels)


def test_a_pillow_image_is_turned_as_its_exif_says(pixels):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif)
    (sent,) = to_images(Image.open(buffer))
    assert wire.decode_image(sent.encoded).shape == (32, 24, 3)


def test_arrays_are_sent_as_tensors(pixels):
    floats = np.linspace(0, 1, 3 * 4 * 5).reshape(3, 4, 5)
    (sent,) = to_images(pixels)
    np.testing.assert_array_equal(wire.from_tensor(sent.tensor), pixels)
    (sent,) = to_images(floats)
    np.testing.assert_array_equal(wire.from_tensor(sent.tensor), floats.astype(np.float32))


def test_batches_may_be_lists_or_one_array(pixels, png):
    assert len(to_images([pixels, png, png.read_bytes()])) == 3
    assert len(to_images(np.stack([pixels] * 4))) == 4
    assert to_images(np.zeros((2, 3, 8, 8), np.float32))[0].tensor.shape == [3, 8, 8]


SIZES = {
    "keep": pb.Resize(keep=pb.Resize.Keep()),
    "short_side": pb.Resize(short_side=pb.Resize.ShortSide()),
    96: pb.Resize(fit=pb.Resize.Fit(max_side=96)),
    (48, 64): pb.Resize(exact=pb.Resize.Exact(height=48, width=64)),
}


@pytest.mark.parametrize(("resize", "message"), SIZES.items(), ids=map(str, SIZES))
def test_resizing_is_stated(pixels, resize, message):
    assert to_image(pixels, resize).resize == message
    assert to_image(pixels, message).resize == message


def test_a_ready_message_is_copied_and_not_changed(pixels):
    ready = pb.Image(tensor=wire.to_tensor(pixels))
    assert to_image(ready, "keep").HasField("resize")
    assert not ready.HasField("resize")


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (np.zeros((4, 4), np.uint8), "(4, 4)"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (7, "int"),
    ],
)
def test_what_is_no_image_is_refused_by_position(pixels, image, shown):
    with pytest.raises(InvalidArgument) as caught:
        to_images([pixels, image])
    assert caught.value.field == "images[1]"
    assert shown in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(NotFound, match=r"nowhere\.png"):
        to_images(Path("nowhere.png"))
    with pytest.raises(InvalidArgument, match="readable file"):
        to_images(tmp_path)


def test_an_unknown_resize_is_refused(pixels):
    with pytest.raises(InvalidArgument, match="short_side"):
        to_image(pixels, "shrink")
