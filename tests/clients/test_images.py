"""Each kind of image becomes the right request."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from convlens import wire
from convlens.errors import InvalidArgument, NotFound
from convlens.v1 import image_pb2 as pb
from convlens_client.images import read_image, to_image, to_images


@pytest.fixture
def png(tmp_path, pixels):
    path = tmp_path / "a.png"
    path.write_bytes(wire.encode_image(pixels))
    return path


def file(pixels, kind, **options):
    """The bytes of a file of an array or a Pillow image."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seen(image):
    """The pixels, uint8 (H, W, 3), that the server is sent, by its own decoder."""
    (sent,) = to_images(image)
    if sent.HasField("encoded"):
        return wire.decode_image(sent.encoded)
    tensor = wire.from_tensor(sent.tensor)
    return tensor if tensor.dtype == np.uint8 else np.rint(tensor.transpose(1, 2, 0) * 255).astype(np.uint8)


def test_a_file_is_sent_as_it_is(png):
    for image, name in ((png, png.name), (str(png), png.name), (png.read_bytes(), "")):
        assert to_images(image) == [pb.Image(encoded=png.read_bytes(), name=name)]


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
    floats = np.linspace(0, 1, 3 * 9 * 8).reshape(3, 9, 8)
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
        (np.zeros((9, 9, 5), np.uint8), "(9, 9, 5)"),
        (np.zeros((9, 9, 3), np.int64), "int64"),
        (np.zeros(9, np.float32), "float32"),
        (np.zeros((1, 1, 3), np.uint8), "'1 x 1 pixels': must be at least 8 pixels a side"),
        (Image.new("RGB", (7, 90)), "'7 x 90 pixels': must be at least 8 pixels a side"),
        (file(np.zeros((1, 1, 3), np.uint8), "PNG"), "'1 x 1 pixels': must be at least 8 pixels a side"),
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


FILES = {"TIFF": {}, "BMP": {}, "GIF": {}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}


@pytest.mark.parametrize(("kind", "options"), FILES.items(), ids=FILES)
def test_files_that_the_server_does_not_take_become_png(tmp_path, kind, options):
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:12, :, 0], pixels[:, :16, 2] = 255, 255
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(file(pixels, kind, **options))
    for image in (path, path.read_bytes()):
        assert np.abs(seen(image).astype(int) - pixels).max() <= (3 if kind == "AVIF" else 0)


FRAMES = [np.full((9, 8, 3), value, np.uint8) for value in (10, 90, 200)]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_frames_the_first_is_sent_or_the_one_that_is_asked_for(kind):
    more = [Image.fromarray(frame) for frame in FRAMES[1:]]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = file(FRAMES[0], kind, save_all=True, append_images=more, **lossless)
    np.testing.assert_array_equal(seen(data), FRAMES[0])
    for number, frame in enumerate(FRAMES):
        np.testing.assert_array_equal(seen(read_image(data, frame=number)), frame)
    for number in (-1, 3):
        with pytest.raises(InvalidArgument, match=f"frame = {number}: must be between 0 and 2") as caught:
            read_image(data, frame=number)
        assert caught.value.field == "frame"


def test_a_photo_with_a_second_picture_behind_it_is_sent_as_it_is():
    second = Image.new("RGB", (24, 32), "red")
    data = file(Image.new("RGB", (24, 32), "blue"), "MPO", save_all=True, append_images=[second])
    assert to_images(data) == [pb.Image(encoded=data)]


def test_a_heic_file_says_what_would_read_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InvalidArgument, match=r"HEIC.*pip install 'convlens\[heic\]'"):
        to_images(b"\0\0\0\x18ftypheic" + bytes(90))


def test_a_heic_file_is_read_where_pillow_heif_is(monkeypatch, pixels):
    """Its reader is stood in for by one that finds a PNG behind the head."""
    head = b"\0\0\0\x18ftypheic"

    def register():
        Image.register_open("HEIF", lambda file, name: opened(file), lambda start: start[4:12] == b"ftypheic")

    def opened(file):
        return Image.open(io.BytesIO(file.read()[len(head) :]))

    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    assert to_images(head + wire.encode_image(pixels))[0].HasField("encoded")


RAMP = np.linspace(0, 1, 24 * 32).reshape(24, 32)
EIGHT = np.rint(RAMP * 255).astype(np.uint8)
GREYS = {
    "uint8": EIGHT,
    "float": RAMP,
    "float32 HW1": RAMP[..., None].astype(np.float32),
    "uint16": EIGHT.astype(np.uint16) * 257,
    "1HW": EIGHT[None],
    "L": Image.fromarray(EIGHT),
    "F of 1": Image.fromarray(RAMP.astype(np.float32)),
    "F of 255": Image.fromarray((RAMP * 255).astype(np.float32)),
    "F of 65535": Image.fromarray(EIGHT.astype(np.float32) * 257),
    "I of 255": Image.fromarray(EIGHT.astype(np.int32)),
    "I of 65535": Image.fromarray(EIGHT.astype(np.int32) * 257),
    "I;16": Image.fromarray(EIGHT.astype(np.uint16) * 257),
    "16-bit TIFF": file(Image.fromarray(EIGHT.astype(np.uint16) * 257), "TIFF"),
    "16-bit PNG": file(Image.fromarray(EIGHT.astype(np.uint16) * 257), "PNG"),
    "float TIFF": file(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("image", GREYS.values(), ids=GREYS)
def test_grey_is_grey_in_all_its_forms(image):
    np.testing.assert_array_equal(seen(image), EIGHT[..., None].repeat(3, axis=-1))


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (Image.fromarray(np.full((9, 9), 200, np.uint16)), "brighter, where white is 65535"),
        (np.full((9, 9), 200, np.uint16), "brighter, where white is 65535"),
        (Image.fromarray(np.full((9, 9), -1, np.float32)), "from 0 to 1 or 255 or 65535"),
        (Image.fromarray(np.full((9, 9), np.nan, np.float32)), "from 0 to 1 or 255 or 65535"),
        (Image.fromarray(np.full((9, 9), 70000, np.int32)), "with values 70000 to 70000"),
    ],
)
def test_values_of_no_known_range_are_refused_and_never_black(image, shown):
    with pytest.raises(InvalidArgument, match=shown):
        to_image(image)
    assert not seen(Image.new("F", (9, 9))).any()


COLOUR = np.random.default_rng(3).integers(0, 256, (24, 32, 3), np.uint8)
LAYOUTS = {
    "uint8 HWC": COLOUR,
    "uint8 CHW": COLOUR.transpose(2, 0, 1),
    "float HWC": COLOUR / 255,
    "float CHW": (COLOUR / 255).transpose(2, 0, 1),
    "float16 HWC": (COLOUR / 255).astype(np.float16),
    "uint16 HWC": COLOUR.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("image", LAYOUTS.values(), ids=LAYOUTS)
def test_colours_are_found_on_either_side(image):
    assert np.abs(seen(image).astype(int) - COLOUR).max() <= (image.dtype == np.float16)


def test_tensors_of_pytorch_are_taken():
    torch = pytest.importorskip("torch")
    pixels = torch.from_numpy((COLOUR / 255).transpose(2, 0, 1).astype(np.float32))
    for tensor in (pixels, pixels.requires_grad_(), torch.from_numpy(COLOUR)):
        np.testing.assert_array_equal(seen(tensor), COLOUR)
    assert len(to_images(torch.stack([pixels.detach()] * 3))) == 3
    assert len(to_images([pixels, pixels])) == 2
    assert np.abs(seen(pixels.detach().bfloat16()).astype(int) - COLOUR).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "P"])
def test_transparency_is_laid_over_white_as_the_server_does(mode):
    rgba = np.zeros((9, 8, 4), np.uint8)
    rgba[:, 4:, 3] = 255
    image = Image.fromarray(rgba)
    if mode == "P":
        image = image.convert("P")
        image.info["transparency"] = image.getpixel((0, 0))
        np.testing.assert_array_equal(seen(image)[:, 0], 255)
        return
    image = image.convert({"RGBa": "RGBa", "RGBA": "RGBA"}.get(mode, "LA"))
    image = image.convert(mode)
    np.testing.assert_array_equal(seen(image)[:, :4], 255)
    np.testing.assert_array_equal(seen(image)[:, 4:], 0)


def test_a_transparent_grey_of_sixteen_bits_is_laid_over_white():
    ramp = Image.fromarray(np.tile(np.array([0, 257, 32896, 65535], np.uint16), (8, 2)))
    ramp.info["transparency"] = 257
    np.testing.assert_array_equal(seen(ramp)[0, :4, 0], [0, 255, 128, 255])


def test_transparent_arrays_are_laid_over_white():
    rgba = np.zeros((9, 8, 4), np.uint8)
    rgba[..., 0], rgba[:, 4:, 3] = 255, 51
    expected = wire.to_pixels(Image.fromarray(rgba))
    for image in (rgba, rgba / 255, (rgba / 255).transpose(2, 0, 1), rgba.transpose(2, 0, 1)):
        assert np.abs(seen(image).astype(int) - expected).max() <= 1


def test_a_damaged_file_is_named_and_what_nobody_knows_is_left_to_the_server():
    data = file(COLOUR, "BMP")
    with pytest.raises(InvalidArgument, match="a whole BMP file") as caught:
        to_images([COLOUR, data[: len(data) // 2]])
    assert caught.value.field == "images[1]"
    assert to_images(b"no picture") == [pb.Image(encoded=b"no picture")]
