# SPDX-License-Identifier: MIT
"""The EDID that GET_EDID answers with. Pure."""

from __future__ import annotations

import struct

LARGEST = 4095
"""Pixels each way that a detailed timing has room for."""


def fits(width: int, height: int) -> bool:
    """Whether an EDID can say this size."""
    return max(width, height) <= LARGEST


def _detailed_timing(width: int, height: int) -> bytes:
    """One 18-byte descriptor for width x height at 60 Hz with reduced-blanking-like porches."""
    hblank, vblank = 160, 30
    clock = min(0xFFFF, (width + hblank) * (height + vblank) * 60 // 10_000)
    return struct.pack(
        "<H16B",
        clock,
        width & 0xFF,
        hblank & 0xFF,
        (width >> 8 & 0xF) << 4 | hblank >> 8,
        height & 0xFF,
        vblank,
        (height >> 8 & 0xF) << 4,
        48,
        32,
        3 << 4 | 6,
        0,
        width * 254 // 960 & 0xFF,
        height * 254 // 960 & 0xFF,
        (width * 254 // 960 >> 8 & 0xF) << 4 | (height * 254 // 960 >> 8 & 0xF),
        0,
        0,
        0x1E,
    )


def _text_descriptor(tag: int, text: str) -> bytes:
    data = text.encode("ascii", "replace")[:13]
    if len(data) < 13:
        data = (data + b"\n").ljust(13, b" ")
    return b"\0\0\0" + bytes((tag, 0)) + data


def build_edid(width: int, height: int, name: str) -> bytes:
    """An EDID 1.4 base block (128 bytes) whose only mode is ``width`` x ``height``.

    Both must fit. Of a size whose pixel clock doesn't fit, 655.35 MHz, the refresh rate is lower than
    60 Hz. Vendor "XEN"; physical size assumes 96 dots per inch. Source: VESA E-EDID release A, revision 2.
    """
    vendor = (ord("X") - 64) << 10 | (ord("E") - 64) << 5 | (ord("N") - 64)
    block = bytes((0, 255, 255, 255, 255, 255, 255, 0))
    block += struct.pack(">H", vendor) + struct.pack("<HIBB", 1, 1, 0, 30) + bytes((1, 4))
    block += bytes((0xA5, min(255, width * 254 // 9600), min(255, height * 254 // 9600), 120, 6))
    block += bytes((0xEE, 0x91, 0xA3, 0x54, 0x4C, 0x99, 0x26, 0x0F, 0x50, 0x54))  # sRGB
    block += bytes(3) + b"\1\1" * 8
    block += _detailed_timing(width, height)
    block += _text_descriptor(0xFC, name)
    block += _text_descriptor(0x10, "") + _text_descriptor(0x10, "")
    block += b"\0"
    return block + bytes((-sum(block) & 0xFF,))
