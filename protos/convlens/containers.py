"""Picture files before a decoder sees them: what makes the picture is kept, what is said about it is not.

Text, colour profiles, thumbnails and EXIF may be small in the file and huge in memory, and decoders read them
without being asked. Here they are dropped unread, but for the orientation; and the size, the frames and the
scans are known before any memory is taken for pixels. Every function is linear in the bytes of the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

MAX_PIECES: Final = 100_000
"""Segments or chunks of a file; cameras write some tens, PNG encoders one for each 8 KiB."""
MAX_SCANS: Final = 100
"""Times that a JPEG may go over its picture; encoders do so up to some 20 times, and each takes as long."""
ORIENTATION: Final = 0x0112
EXIF: Final = b"Exif\0\0"
NUMBERS: Final = {1: "B", 3: "H", 4: "I"}
"""EXIF's types of whole numbers (BYTE, SHORT, LONG), any of which writers use for the orientation."""
ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}

PNG: Final = b"\x89PNG\r\n\x1a\n"
PNG_KEPT: Final = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
WEBP_KEPT: Final = frozenset((b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"))
WEBP_SAID: Final = 0x2C
"""Flags of VP8X that announce a profile, EXIF or XMP."""

EOI, SOS, COM, DNL = 0xD9, 0xDA, 0xFE, 0xDC
MARKER: Final = re.compile(rb"\xff+([^\x00\xd8\xd9\xff])", re.DOTALL)
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ALONE: Final = frozenset((0x01, *range(0xD0, 0xD8)))
JPEG_DROPPED: Final = frozenset((*range(0xE1, 0xF0), COM)) - {0xEE}
"""APP0 (JFIF) and APP14 (Adobe) say how the components are colours: they stay."""


@dataclass(frozen=True)
class Picture:
    """A picture file, stripped.

    Attributes:
        data: the file without what is said about the picture.
        width: pixels, as the file claims.
        height: pixels, as the file claims.
        frames: pictures in an animation; 1 for others.
        orientation: EXIF's, 1 to 8; 1 is upright.
    """

    data: bytes
    width: int
    height: int
    frames: int = 1
    orientation: int = 1


def stripped(data: bytes) -> Picture:
    """A PNG, JPEG or WebP file without what is said about its picture.

    Raises:
        ValueError: none of these, or not built as they are; says where.
    """
    for begins, strip in KINDS:
        if begins(data):
            try:
                return strip(data)
            except struct.error as error:
                raise ValueError("it ends within a header") from error
    raise ValueError("it is none of these")


def _png(data: bytes) -> Picture:
    pieces, frames, orientation = [PNG], 1, 1
    width, height = struct.unpack_from(">II", data, 16)
    for kind, start, end in _chunks(data, len(PNG), ">I4s", 4):
        if kind in PNG_KEPT:
            pieces.append(data[start:end])
        elif kind == b"acTL":
            (frames,) = struct.unpack_from(">I", data, start + 8)
        elif kind == b"eXIf":
            orientation = _orientation(data[start + 8 : end])
    return Picture(b"".join(pieces), width, height, frames, orientation)


def _webp(data: bytes) -> Picture:
    pieces, frames, orientation, size = [], 0, 1, (0, 0)
    for kind, start, end in _chunks(data, 12, "<4sI", 0):
        if kind in WEBP_KEPT:
            piece = data[start:end]
            if kind == b"VP8X" and len(piece) > 8:
                piece = piece[:8] + bytes([piece[8] & ~WEBP_SAID]) + piece[9:]
            pieces.append(piece)
            frames += kind == b"ANMF"
            if kind in WEBP_SIZES and size == (0, 0):
                size = WEBP_SIZES[kind](data, start + 8)
        elif kind == b"EXIF":
            orientation = _orientation(data[start + 8 : end])
    body = b"WEBP" + b"".join(pieces)
    return Picture(b"RIFF" + struct.pack("<I", len(body)) + body, *size, max(1, frames), orientation)


def _chunks(data: bytes, start: int, header: str, trailer: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk with its header; the last one may end beyond the file."""
    for _ in range(MAX_PIECES):
        if start + 8 > len(data):
            return
        one, other = struct.unpack_from(header, data, start)
        kind, length = (one, other) if isinstance(one, bytes) else (other, one)
        end = start + 8 + length + (trailer or length & 1)
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end
    raise ValueError(f"it has more than {MAX_PIECES} chunks")


def _vp8x(data: bytes, start: int) -> tuple[int, int]:
    low, high = struct.unpack_from("<IH", data, start + 4)
    both = low | high << 32
    return (both & 0xFFFFFF) + 1, (both >> 24 & 0xFFFFFF) + 1


def _vp8(data: bytes, start: int) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, start + 6)
    return width & 0x3FFF, height & 0x3FFF


def _vp8l(data: bytes, start: int) -> tuple[int, int]:
    (bits,) = struct.unpack_from("<I", data, start + 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


WEBP_SIZES: Final = {b"VP8X": _vp8x, b"VP8 ": _vp8, b"VP8L": _vp8l}


def _jpeg(data: bytes) -> Picture:
    pieces, size, orientation, place = [data[:2]], (0, 0), 1, 2
    for _ in range(MAX_PIECES):
        marker, start = _marker(data, place)
        if marker == SOS:
            pieces.append(_scans(data, start - 2))
            return Picture(b"".join(pieces), *size, orientation=orientation)
        (length,) = (0,) if marker in ALONE else struct.unpack_from(">H", data, start)
        place = start + length
        if marker in FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 3)
            size = max(size, (width, height), key=lambda sides: sides[0] * sides[1])
        if marker == 0xE1 and data.startswith(EXIF, start + 2) and orientation == 1:
            orientation = _orientation(data[start + 2 : place])
        if marker not in JPEG_DROPPED:
            pieces.append(data[start - 2 : place])
    raise ValueError(f"it has more than {MAX_PIECES} segments")


def _marker(data: bytes, place: int) -> tuple[int, int]:
    """The marker at a place, which any number of 0xFF may precede, and where what follows it begins."""
    marker = MARKER.match(data, place)
    if marker is None:
        raise ValueError(f"there is no segment at byte {place}")
    return marker[1][0], marker.end()


def _scans(data: bytes, start: int) -> bytes:
    """All scans, without what may follow the picture, such as another one, or a film."""
    end = data.find(bytes((0xFF, EOI)), start)
    rest = data[start : end + 2 if end >= 0 else len(data)]
    if (scans := rest.count(bytes((0xFF, SOS)))) > MAX_SCANS:
        raise ValueError(f"it has {scans} scans, of which {MAX_SCANS} are allowed")
    if bytes((0xFF, DNL)) in rest:
        raise ValueError("it tells its height too late")
    return rest


def _orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in the first directory of EXIF data; 1 where there is none."""
    exif = exif.removeprefix(EXIF)
    order = ORDERS.get(exif[:4])
    if order is None:
        return 1
    with suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == ORIENTATION and kind in NUMBERS:
                (value,) = struct.unpack_from(f"{order}{NUMBERS[kind]}", exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    return 1


KINDS: Final[tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Picture]], ...]] = (
    (lambda data: data.startswith(PNG), _png),
    (lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp),
)
