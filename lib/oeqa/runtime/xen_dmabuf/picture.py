# SPDX-License-Identifier: MIT
"""Pictures as rows of bytes: reading a PNG, drawing the frames of clients/pattern, finding one.

The standard library only, since the machine that runs testimage has nothing more. A picture is a
list of rows, each of 3 bytes a pixel in the order red, green, blue.
"""

from __future__ import annotations

import itertools
import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Picture = list[bytes]

CELLS = 40
MAGIC = 0xA5
FRAME_BITS = 24
STREAM_BITS = 8
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _RGBA = 2, 6


def read_png(data: bytes) -> Picture:
    """The picture in a PNG file with 8 bits a channel, RGB or RGBA, not interlaced (PNG specification, 3rd edition).

    ValueError for any other one.
    """
    if not data.startswith(_SIGNATURE):
        raise ValueError("not a PNG file")
    offset, pixels = len(_SIGNATURE), b""
    while offset < len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        body = data[offset + 8 : offset + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            pixels += body
        offset += length + 12
    if depth != 8 or colour not in (_RGB, _RGBA) or interlace:
        raise ValueError(f"PNG with {depth} bits, colour type {colour}, interlace {interlace}")
    size = 4 if colour == _RGBA else 3
    rows = _unfilter(zlib.decompress(pixels), width * size, height, size)
    return [_without_alpha(row) for row in rows] if size == 4 else rows


def _without_alpha(row: bytes) -> bytes:
    rgb = bytearray(len(row) // 4 * 3)
    for channel in range(3):
        rgb[channel::3] = row[channel::4]
    return bytes(rgb)


def _unfilter(data: bytes, length: int, height: int, size: int) -> Picture:
    rows: Picture = []
    above = bytes(length)
    for y in range(height):
        start = y * (length + 1)
        row = _FILTERS[data[start]](data[start + 1 : start + 1 + length], above, size)
        rows.append(row)
        above = row
    return rows


def _none(row: bytes, _above: bytes, _size: int) -> bytes:
    return row


def _sub(row: bytes, _above: bytes, size: int) -> bytes:
    out = bytearray(len(row))
    for channel in range(size):
        out[channel::size] = bytes(v & 255 for v in itertools.accumulate(row[channel::size]))
    return bytes(out)


def _up(row: bytes, above: bytes, _size: int) -> bytes:
    return bytes((a + b) & 255 for a, b in zip(row, above))


def _average(row: bytes, above: bytes, size: int) -> bytes:
    out = bytearray(size) + bytearray(len(row))
    for i, value in enumerate(row):
        out[i + size] = (value + (out[i] + above[i]) // 2) & 255
    return bytes(out[size:])


def _paeth(row: bytes, above: bytes, size: int) -> bytes:
    out = bytearray(size) + bytearray(len(row))
    corner = bytes(size) + above
    for i, value in enumerate(row):
        left, up, diagonal = out[i], above[i], corner[i]
        to_left, to_up, to_diagonal = abs(up - diagonal), abs(left - diagonal), abs(left + up - 2 * diagonal)
        nearest = up if to_up <= to_diagonal else diagonal
        if to_left <= to_up and to_left <= to_diagonal:
            nearest = left
        out[i + size] = (value + nearest) & 255
    return bytes(out[size:])


_FILTERS = (_none, _sub, _up, _average, _paeth)


def cell_size(width: int) -> int:
    """Pixels of a label's cell in a frame of that width; as in clients/pattern/draw.c."""
    return min(4, width // CELLS)


def _label(bits: int, count: int, cell: int) -> bytes:
    """The row of a label's first ``count`` bits."""
    return b"".join((b"\xff\xff\xff" if bits >> (count - 1 - i) & 1 else bytes(3)) * cell for i in range(count))


def frame(width: int, height: int, stream: int, number: int) -> Picture:
    """Frame ``number`` of a stream as clients/pattern draws it."""
    columns = range(width)
    red = bytes((x * 3 + number * 5) & 255 for x in columns)
    rows = []
    for y in range(height):
        row = bytearray(3 * width)
        row[0::3] = red
        row[1::3] = bytes([(y * 3 + number * 7) & 255]) * width
        row[2::3] = bytes(((x ^ y) + number * 11) & 255 for x in columns)
        rows.append(row)
    cell = cell_size(width)
    if cell and height >= 2 * cell:
        bits = (MAGIC << STREAM_BITS | stream) << FRAME_BITS | number & (1 << FRAME_BITS) - 1
        label = _label(bits, CELLS, cell)
        for row in rows[:cell]:
            row[: len(label)] = label
        for row in rows[-cell:]:
            row[-len(label) :] = label
    return [bytes(row) for row in rows]


def ppm(picture: Picture) -> bytes:
    """The picture as a binary PPM file."""
    return b"P6\n%d %d\n255\n" % (len(picture[0]) // 3, len(picture)) + b"".join(picture)


def of_xrgb8888(row: bytes) -> bytes:
    """A row of a framebuffer with 32 bits a pixel, as drm_fourcc.h has XR24."""
    rgb = bytearray(len(row) // 4 * 3)
    for channel in range(3):
        rgb[channel::3] = row[2 - channel :: 4]
    return bytes(rgb)


def as_kept(picture: Picture, fourcc: str) -> Picture:
    """What a buffer of a format keeps of a picture: of RG16's channels the first bits, which are repeated."""
    return _by_channel(picture, _kept) if fourcc == "RG16" else picture


def as_shown(screen: Picture, fourcc: str) -> Picture:
    """A screen on which a picture of such a buffer is found as as_kept() has it.

    Renderers make 8 bits of fewer in ways of their own, less than one off (of Mesa's, llvmpipe repeats the first bits
    and softpipe takes the nearest value). All other values stay, and are none of as_kept()'s.
    """
    return _by_channel(screen, _shown) if fourcc == "RG16" else screen


def _kept(value: int, bits: int) -> int:
    first = value >> (8 - bits)
    return first << (8 - bits) | value >> bits


def _shown(value: int, bits: int) -> int:
    most = (1 << bits) - 1
    is_expanded = abs(value * most - (value >> (8 - bits)) * 255) < most
    return _kept(value, bits) if is_expanded else value


def _by_channel(picture: Picture, change: Callable[[int, int], int]) -> Picture:
    """A picture with each channel changed by its value and the number of its bits in RG16."""
    five, six = (bytes(change(value, bits) for value in range(256)) for bits in (5, 6))
    rows = []
    for row in picture:
        out = bytearray(row.translate(five))
        out[1::3] = row[1::3].translate(six)
        rows.append(bytes(out))
    return rows


def find(screen: Picture, picture: Picture) -> tuple[int, int] | None:
    """(x, y) of a picture that is on a screen, equal in every pixel; None if it is not."""
    for y in range(len(screen) - len(picture) + 1):
        start = screen[y].find(picture[0])
        while start >= 0:
            end = start + len(picture[0])
            if start % 3 == 0 and all(screen[y + i][start:end] == row for i, row in enumerate(picture)):
                return start // 3, y
            start = screen[y].find(picture[0], start + 1)
    return None


def part(screen: Picture, x: int, y: int, width: int, height: int) -> Picture:
    """A rectangle of a screen."""
    return [row[3 * x : 3 * (x + width)] for row in screen[y : y + height]]


def has_stream(screen: Picture, stream: int, width: int) -> bool:
    """Whether any frame of a stream, or a part of one with its first label, is on a screen."""
    mark = _label(MAGIC << STREAM_BITS | stream, 8 + STREAM_BITS, cell_size(width))
    return any(mark in row for row in screen)


def frame_number(screen: Picture, stream: int, width: int) -> int | None:
    """The number in the first label of a stream's frame on a screen; None if there is none."""
    cell = cell_size(width)
    mark = _label(MAGIC << STREAM_BITS | stream, 8 + STREAM_BITS, cell)
    for row in screen:
        start = row.find(mark)
        if start >= 0:
            bits = row[start + len(mark) :][: 3 * cell * FRAME_BITS : 3 * cell]
            return int("".join("1" if value > 127 else "0" for value in bits), 2)
    return None


def colours(screen: Picture) -> int:
    """How many different colours a screen has."""
    return len({row[i : i + 3] for row in set(screen) for i in range(0, len(row), 3)})
