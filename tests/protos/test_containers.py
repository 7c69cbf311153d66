"""Hostile picture files: refused, or read in the memory that their pixels need."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from support.any_request import FILES

from convlens import wire
from convlens.containers import MAX_SCANS, stripped
from convlens.errors import InvalidArgument

RNG = np.random.default_rng(0)
PIXELS = Image.fromarray(RNG.integers(0, 256, (24, 40, 3), np.uint8))
MEBI = 1 << 20


def file(kind: str, image: Image.Image = PIXELS, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


STILL = [
    data
    for data in FILES
    if opened(data).format in wire.FORMATS and getattr(opened(data), "n_frames", 1) == 1
]


@pytest.mark.parametrize("data", STILL, ids=range(len(STILL)))
def test_what_is_kept_is_the_whole_picture(data: bytes) -> None:
    np.testing.assert_array_equal(wire.decode_image(data), wire.to_pixels(opened(data)))
    assert (stripped(data).width, stripped(data).height) == opened(data).size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("number", [(3, "HH"), (4, "I")], ids=["SHORT", "LONG"])
def test_a_picture_is_turned_upright(
    kind: str, orientation: int, order: str, number: tuple[int, str]
) -> None:
    exif, (type_, form) = {"<": b"II*\0", ">": b"MM\0*"}[order], number
    value = (orientation, 0)[: len(form)]
    exif += struct.pack(f"{order}IHHHI{form}I", 8, 1, 0x0112, type_, 1, *value, 0)
    data = file(kind, exif=b"Exif\0\0" + exif)
    expected = np.asarray(ImageOps.exif_transpose(opened(data)).convert("RGB"))
    np.testing.assert_array_equal(wire.decode_image(data), expected)


def exif_bomb(entries: int) -> bytes:
    """Tags that all have the same long value: hundreds of times the file's size, once they are read."""
    tags = b"".join(struct.pack("<HHII", tag, 7, 60_000, 8) for tag in range(0x200, 0x200 + entries))
    return (b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + tags).ljust(65_000, b"\0")


def text_bomb() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for number in range(60):
        info.add_text(f"comment {number}", "x" * (MEBI - 100), zip=True)
    return info


BOMBS = {
    "EXIF of a JPEG": lambda: file("JPEG", exif=exif_bomb(4000)),
    "EXIF of a WebP": lambda: file("WEBP", exif=exif_bomb(4000)),
    "EXIF of a PNG": lambda: file("PNG", exif=exif_bomb(4000)),
    "text of a PNG": lambda: file("PNG", pnginfo=text_bomb()),
    "profile of a PNG": lambda: file("PNG", icc_profile=bytes(30 * MEBI)),
    "profile of a JPEG": lambda: file("JPEG", icc_profile=bytes(10 * MEBI)),
    "film behind a JPEG": lambda: file("JPEG") + b"\xff\xda" * 4 * MEBI,
    "picture behind a JPEG": lambda: file("JPEG") + file("JPEG"),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_what_is_said_about_a_picture_is_not_read(make: Any) -> None:
    data = make()
    tracemalloc.start()
    try:
        assert wire.decode_image(data).shape == (24, 40, 3)
        assert tracemalloc.get_traced_memory()[1] < MEBI // 4
    finally:
        tracemalloc.stop()
    assert len(stripped(data).data) < 4096


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (header, *chunks)
    )


def webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def scans(count: int) -> bytes:
    """A progressive JPEG that goes over its picture again and again."""
    data = file("JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    again = data[start : data.index(b"\xff", start + 2 + data[start + 3])]
    return data[:-2] + again * count + data[-2:]


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(file("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


REFUSED = {
    "PNG of 60,000 x 60,000": (
        lambda: png(60_000, 60_000),
        "60000 x 60000 pixels': must be at most 64000000",
    ),
    "JPEG of 60,000 x 60,000": (lambda: jpeg(60_000, 60_000), "60000 x 60000 pixels"),
    "lossy WebP": (lambda: webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + b"\xff\x3f" * 2), "16383 x 16383 pixels"),
    "lossless WebP": (lambda: webp(b"VP8L", b"\x2f\xff\xff\xff\x0f"), "16384 x 16384 pixels"),
    "extended WebP": (lambda: webp(b"VP8X", b"\0\0\0\0" + b"\xff\xff\xff" * 2), "16777216 x 16777216 pixels"),
    "WebP of 500 frames": (
        lambda: file("WEBP", save_all=True, append_images=[PIXELS.rotate(n) for n in range(499)]),
        "frames': must be a picture of one frame",
    ),
    "animated PNG": (lambda: file("PNG", save_all=True, append_images=[PIXELS.rotate(9)]), "2 frames"),
    "JPEG of many scans": (lambda: scans(MAX_SCANS), f"of which {MAX_SCANS} are allowed"),
    "JPEG of many segments": (
        lambda: b"\xff\xd8" + b"\xff\xfe\x00\x02" * 100_001 + file("JPEG")[2:],
        "more than 100000 segments",
    ),
    "PNG of many chunks": (lambda: png(8, 8, *[(b"IDAT", b"")] * 100_001), "more than 100000 chunks"),
    "JPEG without a picture": (lambda: b"\xff\xd8\xff\xd9", "no segment at byte 2"),
    "TIFF": (lambda: file("TIFF"), "it is none of these"),
    "BMP": (lambda: file("BMP"), "it is none of these"),
    "PNG of nothing": (lambda: png(0, 0), "a whole PNG"),
    "short header": (lambda: b"\x89PNG\r\n\x1a\n\0\0", "ends within a header"),
}


@pytest.mark.parametrize(("make", "text"), REFUSED.values(), ids=REFUSED)
def test_a_hostile_file_is_refused_before_it_takes_memory(make: Any, text: str) -> None:
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgument, match=text) as raised:
            wire.decode_image(data, "images[3].encoded")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + MEBI
    finally:
        tracemalloc.stop()
    assert raised.value.field == "images[3].encoded"


DECODE = """
import re, sys
from convlens import wire
def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1])
data = open(sys.argv[1], "rb").read()
before = peak()
assert wire.decode_image(data).shape == (8000, 8000, 3)
print(peak() - before >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind", "options", "most"),
    [
        ("RGB", "PNG", {}, 520),
        ("RGBA", "PNG", {}, 520),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}, 720),
        ("CMYK", "JPEG", {"progressive": True}, 800),
        ("RGBA", "WEBP", {"lossless": True, "method": 0}, 1100),
    ],
)
def test_the_largest_picture_takes_a_bounded_memory(
    tmp_path: Path, mode: str, kind: str, options: dict[str, Any], most: int
) -> None:
    """64 megapixels, in a process of their own; MiB beside the file."""
    path = tmp_path / "picture"
    path.write_bytes(file(kind, Image.new(mode, (8000, 8000), 77), **options))
    run = [sys.executable, "-c", DECODE, str(path)]
    peak = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    print(f"{mode} {kind}: {peak} MiB")
    assert peak < most
