# SPDX-License-Identifier: MIT
"""DRM's ioctls: driver, dumb buffers, dma-bufs. Failures are OSError with the node's path.

Source: include/uapi/drm/drm.h and drm_mode.h of Linux 6.12. Any thread.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from ..errors import oserror
from . import ioctl
from .ioctl import NONE, READ_WRITE

_DRM_VERSION = ioctl.number(READ_WRITE, "d", 0x00, 64)
_DRM_GET_CAP = ioctl.number(READ_WRITE, "d", 0x0C, 16)
_DRM_DROP_MASTER = ioctl.number(NONE, "d", 0x1F, 0)
_DRM_PRIME_HANDLE_TO_FD = ioctl.number(READ_WRITE, "d", 0x2D, 12)
_DRM_MODE_CREATE_DUMB = ioctl.number(READ_WRITE, "d", 0xB2, 32)
_DRM_MODE_DESTROY_DUMB = ioctl.number(READ_WRITE, "d", 0xB4, 4)

_DRM_CAP_DUMB_BUFFER = 1
_DRM_CLOEXEC = os.O_CLOEXEC
_DRM_RDWR = os.O_RDWR


def open_node(path: str) -> int:
    """Open a DRM node and never stay its master.

    The first to open a primary node becomes master; if that is this process, the compositor could
    not set a mode any more.
    """
    fd = ioctl.open_device(path)
    try:
        fcntl.ioctl(fd, _DRM_DROP_MASTER)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            os.close(fd)
            raise oserror(error.errno or errno.EIO, path) from error
    return fd


def driver(fd: int, path: str) -> str:
    """The DRM driver's name (DRM_IOCTL_VERSION)."""
    name = ctypes.create_string_buffer(64)
    argument = bytearray(struct.pack("@iiiNNNNNN", 0, 0, 0, len(name) - 1, ctypes.addressof(name), 0, 0, 0, 0))
    ioctl.call(fd, _DRM_VERSION, argument, path)
    return name.value.decode("ascii", "replace")


def has_dumb(fd: int, path: str) -> bool:
    argument = bytearray(struct.pack("@QQ", _DRM_CAP_DUMB_BUFFER, 0))
    ioctl.call(fd, _DRM_GET_CAP, argument, path)
    return bool(struct.unpack_from("@Q", argument, 8)[0])


def create_dumb(fd: int, width: int, height: int, bpp: int, path: str) -> tuple[int, int, int]:
    """A dumb buffer: (handle, pitch in bytes, size in bytes)."""
    argument = bytearray(struct.pack("@IIIIIIQ", height, width, bpp, 0, 0, 0, 0))
    ioctl.call(fd, _DRM_MODE_CREATE_DUMB, argument, path)
    return struct.unpack_from("@IIQ", argument, 16)


def destroy_dumb(fd: int, handle: int, path: str) -> None:
    ioctl.call(fd, _DRM_MODE_DESTROY_DUMB, bytearray(struct.pack("@I", handle)), path)


def prime_fd(fd: int, handle: int, path: str) -> int:
    """The dma-buf of a GEM handle, open for reading and writing as MAP_REFS_TO_BUF demands."""
    argument = bytearray(struct.pack("@IIi", handle, _DRM_CLOEXEC | _DRM_RDWR, -1))
    ioctl.call(fd, _DRM_PRIME_HANDLE_TO_FD, argument, path)
    return int(struct.unpack_from("@i", argument, 8)[0])
