# SPDX-License-Identifier: MIT
"""What a display buffer may look like: pure checks of the frontend's numbers.

Python's integers don't wrap, so width * height * bpp is what it says. All sizes in pixels, bits per
pixel, bytes, or pages of 4096 bytes.
"""

from __future__ import annotations

import dataclasses
import errno

from ..config import Quota
from ..errors import RequestError
from ..record import record
from . import fourcc, wire

_DEPTHS = (8, 16, 24, 32)


@record
class Crop:
    """The part of a framebuffer that a connector shows, in pixels."""

    x: int
    y: int
    width: int
    height: int


def stride_of(width: int, bpp: int) -> int:
    """drm_xen_front: pitch = DIV_ROUND_UP(width * bpp, 8)."""
    return (width * bpp + 7) // 8


def pages_of(size: int) -> int:
    return -(-size // wire.PAGE_SIZE)


def check_size(field: str, width: int, height: int, quota: Quota) -> None:
    if not 0 < width <= quota.width:
        raise RequestError(errno.EINVAL, f"{field}.width", width, f"1 to {quota.width}")
    if not 0 < height <= quota.height:
        raise RequestError(errno.EINVAL, f"{field}.height", height, f"1 to {quota.height}")


def check_fits(field: str, stride: int, height: int, data_ofs: int, buffer_sz: int) -> None:
    needed = data_ofs + stride * height
    if needed > buffer_sz:
        layout = f"offset {data_ofs} + {stride} x {height}"
        raise RequestError(errno.EINVAL, field, buffer_sz, f"{layout} bytes need {needed}")


def of_version(request: wire.DbufCreate, version: int) -> wire.DbufCreate:
    """The request as a frontend of that protocol version means it.

    data_ofs came with version 2; before, these bytes were whatever was in the ring. drm_xen_front chooses no
    version, yet sets it, and to something else than 0 only for a buffer that it imported.
    """
    imported = not any((request.width, request.height, request.bpp))
    return request if version >= 2 or imported else dataclasses.replace(request, data_ofs=0)


def check_dbuf(request: wire.DbufCreate, quota: Quota) -> None:
    """RequestError(EINVAL) unless all numbers of DBUF_CREATE agree with each other."""
    if request.flags & wire.DBUF_FLG_REQ_ALLOC:
        raise RequestError(
            errno.EOPNOTSUPP,
            "flags",
            request.flags,
            "the backend never allocates for a DomU (XSA-363); configure be-alloc=0",
        )
    if request.flags:
        raise RequestError(errno.EINVAL, "flags", request.flags, "no flag is known")
    if not request.dbuf_cookie:
        raise RequestError(errno.EINVAL, "dbuf_cookie", 0, "0 is the invalid cookie")
    if not request.buffer_sz:
        raise RequestError(errno.EINVAL, "buffer_sz", 0, "at least one pixel")
    if not request.gref_directory:
        raise RequestError(errno.EINVAL, "gref_directory", 0, "0 is no grant reference")
    if not any((request.width, request.height, request.bpp)):
        check_fits("buffer_sz", 0, 0, request.data_ofs, request.buffer_sz)
        return  # an imported buffer: its geometry comes with FB_ATTACH
    check_size("dbuf_create", request.width, request.height, quota)
    if request.bpp not in _DEPTHS:
        raise RequestError(errno.EINVAL, "bpp", request.bpp, f"one of {_DEPTHS}")
    stride = stride_of(request.width, request.bpp)
    check_fits("buffer_sz", stride, request.height, request.data_ofs, request.buffer_sz)


def check_format(pixel_format: int) -> int:
    """The bits per pixel of a fourcc code; RequestError(EINVAL) for one that isn't known."""
    bits = fourcc.BITS.get(pixel_format)
    if bits is None:
        raise RequestError(errno.EINVAL, "pixel_format", fourcc.name(pixel_format), "not a known one-plane format")
    return bits


def crop_of(config: wire.SetConfig, fb_width: int, fb_height: int, width: int, height: int) -> Crop:
    """The part of a framebuffer that a connector of ``width`` x ``height`` shows.

    drm_xen_front sends the size of a framebuffer that may exceed the connector's resolution, and later
    flips to one that is smaller: what both have is shown. RequestError(EINVAL) if that is nothing.
    """
    for field, start, length, limit in (
        ("width", config.x, config.width, fb_width),
        ("height", config.y, config.height, fb_height),
    ):
        if length < 1:
            raise RequestError(errno.EINVAL, field, length, "at least 1")
        if start >= limit:
            raise RequestError(errno.EINVAL, "x" if field == "width" else "y", start, f"< {limit}")
    return Crop(
        config.x,
        config.y,
        min(config.width, width, fb_width - config.x),
        min(config.height, height, fb_height - config.y),
    )


def crop_of_flip(config: wire.SetConfig, fb_width: int, fb_height: int, width: int, height: int) -> Crop:
    """The same for a framebuffer that came by a flip, which has no position of its own.

    Linux lets nobody show what lies outside of a framebuffer: a position that doesn't fit is an older one's.
    """
    shown_width, shown_height = min(config.width, width, fb_width), min(config.height, height, fb_height)
    x, y = min(config.x, fb_width - shown_width), min(config.y, fb_height - shown_height)
    return Crop(x, y, shown_width, shown_height)
