# SPDX-License-Identifier: MIT
"""The wire format of xen/io/displif.h (protocol version 2): requests, responses, events.

Pure functions over bytes; nothing here touches shared memory. A packet is 64 bytes, in the byte
order of the machine (arm64 and x86 are little endian).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..record import record
from .packets import (
    EVT_PG_FLIP,
    FLIP,
    HEADER,
    OP_DBUF_CREATE,
    OP_DBUF_DESTROY,
    OP_FB_ATTACH,
    OP_FB_DETACH,
    OP_GET_EDID,
    OP_PG_FLIP,
    OP_SET_CONFIG,
    PACKET_SIZE,
    PAGE_SIZE,
    pack_flip_event,
    pack_response,
)

VERSIONS = "1,2"
DBUF_FLG_REQ_ALLOC = 1 << 0
EDID_MAX_SIZE = 128 * 256


@record
class DbufCreate:
    """Sizes in pixels, bits and bytes. All of width, height, bpp zero: drm_xen_front imported the
    buffer and learns its geometry only when a framebuffer is attached."""

    dbuf_cookie: int
    width: int
    height: int
    bpp: int
    buffer_sz: int
    flags: int
    gref_directory: int
    data_ofs: int


@record
class DbufDestroy:
    dbuf_cookie: int


@record
class FbAttach:
    dbuf_cookie: int
    fb_cookie: int
    width: int
    height: int
    pixel_format: int


@record
class FbDetach:
    fb_cookie: int


@record
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


@record
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
    """``packet``: 64 bytes, already copied out of the shared page."""
    identifier, operation = HEADER.unpack_from(packet)
    entry = _REQUESTS.get(operation)
    body = entry[1](*entry[0].unpack_from(packet, HEADER.size)) if entry else None
    return Request(identifier, operation, body)


__all__ = [
    "DBUF_FLG_REQ_ALLOC",
    "EDID_MAX_SIZE",
    "EVT_PG_FLIP",
    "FLIP",
    "HEADER",
    "OP_DBUF_CREATE",
    "OP_DBUF_DESTROY",
    "OP_FB_ATTACH",
    "OP_FB_DETACH",
    "OP_GET_EDID",
    "OP_PG_FLIP",
    "OP_SET_CONFIG",
    "PACKET_SIZE",
    "PAGE_SIZE",
    "VERSIONS",
    "DbufCreate",
    "DbufDestroy",
    "FbAttach",
    "FbDetach",
    "GetEdid",
    "PgFlip",
    "Request",
    "SetConfig",
    "pack_flip_event",
    "pack_response",
    "parse_request",
]
