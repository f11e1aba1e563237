# SPDX-License-Identifier: MIT
"""The wire format of xen/io/displif.h (protocol version 2): requests, responses, events, EDID.

Pure functions over bytes; nothing here touches shared memory. A packet is 64 octets, in the byte
order of the machine (arm64 and x86 are little endian).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PACKET_SIZE = 64
VERSIONS = "1,2"

OP_DBUF_CREATE = 0x10
OP_DBUF_DESTROY = 0x11
OP_FB_ATTACH = 0x12
OP_FB_DETACH = 0x13
OP_SET_CONFIG = 0x14
OP_PG_FLIP = 0x15
OP_GET_EDID = 0x16
EVT_PG_FLIP = 0x00

DBUF_FLG_REQ_ALLOC = 1 << 0
EDID_MAX_SIZE = 128 * 256

_HEADER = struct.Struct("<HB5x")


@dataclass(frozen=True)
class DbufCreate:
    """Sizes in pixels, bits and octets. All of width, height, bpp zero: drm_xen_front imported the
    buffer and learns its geometry only when a framebuffer is attached."""

    dbuf_cookie: int
    width: int
    height: int
    bpp: int
    buffer_sz: int
    flags: int
    gref_directory: int
    data_ofs: int


@dataclass(frozen=True)
class DbufDestroy:
    dbuf_cookie: int


@dataclass(frozen=True)
class FbAttach:
    dbuf_cookie: int
    fb_cookie: int
    width: int
    height: int
    pixel_format: int


@dataclass(frozen=True)
class FbDetach:
    fb_cookie: int


@dataclass(frozen=True)
class SetConfig:
    fb_cookie: int
    x: int
    y: int
    width: int
    height: int
    bpp: int

    @property
    def reset(self) -> bool:
        """displif.h: "Pass all zeros to reset"."""
        return not any((self.fb_cookie, self.x, self.y, self.width, self.height, self.bpp))


@dataclass(frozen=True)
class PgFlip:
    fb_cookie: int


@dataclass(frozen=True)
class GetEdid:
    buffer_sz: int
    gref_directory: int


_REQUESTS = {
    OP_DBUF_CREATE: (struct.Struct("<QIIIIIII"), DbufCreate),
    OP_DBUF_DESTROY: (struct.Struct("<Q"), DbufDestroy),
    OP_FB_ATTACH: (struct.Struct("<QQIII"), FbAttach),
    OP_FB_DETACH: (struct.Struct("<Q"), FbDetach),
    OP_SET_CONFIG: (struct.Struct("<QIIIII"), SetConfig),
    OP_PG_FLIP: (struct.Struct("<Q"), PgFlip),
    OP_GET_EDID: (struct.Struct("<II"), GetEdid),
}


@dataclass(frozen=True)
class Request:
    """``body`` is one of the dataclasses above, or None for an unknown operation."""

    id: int
    operation: int
    body: object | None


def parse_request(packet: bytes) -> Request:
    """``packet``: 64 octets, already copied out of the shared page."""
    identifier, operation = _HEADER.unpack_from(packet)
    entry = _REQUESTS.get(operation)
    body = entry[1](*entry[0].unpack_from(packet, _HEADER.size)) if entry else None
    return Request(identifier, operation, body)


def pack_response(identifier: int, operation: int, status: int, edid_sz: int = 0) -> bytes:
    """``status``: 0 or a negative errno; ``edid_sz`` only matters to GET_EDID."""
    return struct.pack("<HBxiI52x", identifier, operation, status, edid_sz)


def pack_flip_event(identifier: int, fb_cookie: int) -> bytes:
    return struct.pack("<HB5xQ48x", identifier & 0xFFFF, EVT_PG_FLIP, fb_cookie)


def _detailed_timing(width: int, height: int) -> bytes:
    """One 18-octet descriptor for width x height at 60 Hz with reduced-blanking-like porches."""
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
    """An EDID 1.4 base block (128 octets) whose only mode is ``width`` x ``height``.

    Widths and heights above 4095 don't fit a detailed timing and are cut to it. Vendor "XEN";
    physical size assumes 96 dots per inch. Source: VESA E-EDID release A, revision 2.
    """
    width, height = min(width, 4095), min(height, 4095)
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
