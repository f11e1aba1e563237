# SPDX-License-Identifier: MIT
"""ioctl(2): numbers, and calls whose failure names the device.

Source: include/uapi/asm-generic/ioctl.h, the layout of arm64 and x86. Any thread.
"""

from __future__ import annotations

import errno
import fcntl
import os

from ..errors import oserror

NONE, READ_WRITE = 0, 3


def number(direction: int, kind: str, command: int, size: int) -> int:
    """_IOC() of asm-generic/ioctl.h; ``size`` in bytes."""
    return direction << 30 | size << 16 | ord(kind) << 8 | command


def call(fd: int, request: int, argument: bytearray | int, path: str) -> int:
    """The call's result. OSError with errno and ``path``. Repeated after a signal."""
    while True:
        try:
            return fcntl.ioctl(fd, request, argument)
        except InterruptedError:
            continue  # Python repeats system calls after a signal, but not ioctl
        except OSError as error:
            raise oserror(error.errno or errno.EIO, path) from error


def open_device(path: str) -> int:
    """Open ``path`` read-write, close-on-exec; the caller owns the descriptor."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)
