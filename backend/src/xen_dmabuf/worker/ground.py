# SPDX-License-Identifier: MIT
"""What a window shows where its guest shows nothing: a colour, or an idle picture (PPM)."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

from ..config import ConnectorConfig
from ..displif import fourcc
from ..errors import ImportRefused
from ..log import fields
from .layout import Size

if TYPE_CHECKING:
    from .compositor import Compositor
    from .image import Image

log = logging.getLogger(__name__)

_HEADER = re.compile(rb"P6\s(?:\s|#[^\n]*\n)*(\d{1,5})\s+(\d{1,5})\s+255\s")
_MOST = 8192  # pixels of a side
_LARGEST = 3 * 4096 * 4096 + 1024  # bytes of a file


def ground(compositor: Compositor, size: Size, settings: ConnectorConfig) -> Image:
    """A buffer of one colour; one that can be seen through if the guest's picture may."""
    code = fourcc.ARGB8888 if settings.alpha else fourcc.XRGB8888
    colour = b"\0\0\0\0" if settings.alpha else settings.colour()[::-1] + b"\xff"
    return _image(compositor, size, colour if size == (1, 1) or any(colour[:3]) else b"", code)


def load_idle(compositor: Compositor, settings: ConnectorConfig) -> Image | None:
    """The idle picture; None if none is configured, or, with an error in the log, if it can't be had."""
    path = settings.idle_file()
    if not path:
        return None
    try:
        size, pixels = read_ppm(path)
        return _image(compositor, size, pixels, fourcc.XRGB8888)
    except (OSError, ValueError, ImportRefused) as error:
        log.error("idle picture can't be shown", extra=fields(path=path, reason=error))
        return None


def read_ppm(path: str) -> tuple[Size, bytes]:
    """A binary PPM file (P6, 255) as XRGB8888 of the machine's order; OSError, ValueError."""
    with open(path, "rb") as file:
        data = file.read(_LARGEST + 1)
    header = _HEADER.match(data)
    if header is None or len(data) > _LARGEST:
        raise ValueError("a binary PPM (P6) with 255 levels and at most 4096x4096 pixels is expected")
    width, height = int(header[1]), int(header[2])
    start, length = header.end(), width * height * 3
    if not (0 < width <= _MOST and 0 < height <= _MOST) or len(data) < start + length:
        raise ValueError(f"{width}x{height} pixels are announced, {len(data) - start} bytes follow")
    pixels = bytearray(width * height * 4)
    for channel in range(3):
        pixels[2 - channel :: 4] = data[start + channel : start + length : 3]
    return (width, height), bytes(pixels)


def _image(compositor: Compositor, size: Size, pixels: bytes, code: int) -> Image:
    """``pixels`` again and again; none: black."""
    length = size[0] * size[1] * 4
    fd = os.memfd_create("ground", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, length)
        if pixels:
            os.pwrite(fd, pixels * (length // len(pixels)), 0)
        return compositor.share_memory(fd, length, *size, size[0] * 4, 0, code)
    finally:
        os.close(fd)
