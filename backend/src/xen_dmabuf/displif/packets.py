# SPDX-License-Identifier: MIT
"""The numbers of xen/io/displif.h, and the packets that a backend sends. Pure.

Apart from wire.py because a process that goes on for another one needs this first of all, and
importing less answers sooner. A packet is 64 bytes, in the byte order of the machine (arm64 and x86
are little endian).
"""

from __future__ import annotations

import struct

PAGE_SIZE = 4096
PACKET_SIZE = 64

OP_DBUF_CREATE = 0x10
OP_DBUF_DESTROY = 0x11
OP_FB_ATTACH = 0x12
OP_FB_DETACH = 0x13
OP_SET_CONFIG = 0x14
OP_PG_FLIP = 0x15
OP_GET_EDID = 0x16
EVT_PG_FLIP = 0x00

HEADER = struct.Struct("<HB5x")
"""Of a request: id, operation."""
FLIP = struct.Struct("<Q")
"""The body of PG_FLIP: fb_cookie."""
_RESPONSE = struct.Struct("<HBxiI52x")
_FLIP_EVENT = struct.Struct("<HB5xQ48x")


def pack_response(identifier: int, operation: int, status: int, edid_sz: int = 0) -> bytes:
    """``status``: 0 or a negative errno; ``edid_sz`` only matters to GET_EDID."""
    return _RESPONSE.pack(identifier, operation, status, edid_sz)


def pack_flip_event(identifier: int, fb_cookie: int) -> bytes:
    return _FLIP_EVENT.pack(identifier & 0xFFFF, EVT_PG_FLIP, fb_cookie)
