#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Looks at a backend worker from outside, as root in Dom0: independent of what the worker says.

xen_dmabuf_probe.py peek PID FD[,FD...] OFFSET  read 4 bytes of the dma-bufs that are PID's files FD
xen_dmabuf_probe.py poke PID FD OFFSET VALUE    write them (hexadecimal, little endian)
xen_dmabuf_probe.py footprint PID               JSON: bytes read and written by system calls so far,
                                                CPU ticks, what the process has mapped of dma-bufs and gntdev
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PIDFD_GETFD = 438  # the same number on all architectures (include/uapi/asm-generic/unistd.h)
DMA_BUF_IOCTL_SYNC = 0x40086200
SYNC_READ_WRITE, SYNC_END = 3, 4


def duplicate(pid: int, number: int) -> int:
    """A duplicate of another process's file."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(pid)
    got: int = libc.syscall(PIDFD_GETFD, handle, number, 0)
    if got < 0:
        raise OSError(ctypes.get_errno(), f"pidfd_getfd {pid} {number}: {os.strerror(ctypes.get_errno())}")
    return got


def access(pid: int, number: int, offset: int, value: int | None) -> int:
    """Read, or write and read back, a pixel of a dma-buf."""
    import fcntl

    fd = duplicate(pid, number)
    size = os.lseek(fd, 0, os.SEEK_END)
    with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
        fcntl.ioctl(fd, DMA_BUF_IOCTL_SYNC, struct.pack("=Q", SYNC_READ_WRITE))
        if value is not None:
            pages[offset : offset + 4] = struct.pack("<I", value)
        now = int(struct.unpack_from("<I", pages, offset)[0])
        fcntl.ioctl(fd, DMA_BUF_IOCTL_SYNC, struct.pack("=Q", SYNC_READ_WRITE | SYNC_END))
    return now


def footprint(pid: int) -> dict[str, Any]:
    """What a process has read, written and mapped, from /proc."""
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        io = dict(line.split(": ") for line in file.read().splitlines())
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    mapped = {"dmabuf": 0, "gntdev": 0, "drm": 0}
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as file:
        for line in file:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            for name, mark in (("dmabuf", "/dmabuf"), ("gntdev", "/dev/xen/gntdev"), ("drm", "/dev/dri/")):
                if mark in line:
                    mapped[name] += end - start
    return {
        "read": int(io["rchar"]),
        "written": int(io["wchar"]),
        "ticks": int(fields[11]) + int(fields[12]),
        "mapped": mapped,
    }


def main() -> int:
    """Command line."""
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    verb, pid = sys.argv[1], int(sys.argv[2])
    if verb == "footprint":
        print(json.dumps(footprint(pid)))
        return 0
    value = int(sys.argv[5], 16) if verb == "poke" else None
    for number in sys.argv[3].split(","):
        print(f"{access(pid, int(number), int(sys.argv[4]), value):08x}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
