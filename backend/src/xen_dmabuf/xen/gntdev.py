# SPDX-License-Identifier: MIT
"""/dev/xen/gntdev: the pages that another domain has granted, mapped here or behind a dma-buf.

Sources: include/uapi/xen/gntdev.h of Linux 6.12; ioctls 15 to 18: docs/kernel-abi.md. Failures are
OSError with errno and the device's path. Any thread; calls that block say so.
"""

from __future__ import annotations

import array
import errno
import mmap
import os
import struct

from ..errors import oserror
from ..linux import ioctl
from ..linux.ioctl import NONE

PAGE_SIZE = 4096
PATH = "/dev/xen/gntdev"

_MAP_GRANT_REF = ioctl.number(NONE, "G", 0, 24)
_UNMAP_GRANT_REF = ioctl.number(NONE, "G", 1, 16)
_EXP_FROM_REFS = ioctl.number(NONE, "G", 9, 20)
_EXP_WAIT_RELEASED = ioctl.number(NONE, "G", 10, 8)
_MAP_REFS_TO_BUF = ioctl.number(NONE, "G", 15, 24)
_MAP_RELEASE = ioctl.number(NONE, "G", 16, 8)
_MAP_WAIT_RELEASED = ioctl.number(NONE, "G", 17, 8)
_MAP_SYNC = ioctl.number(NONE, "G", 18, 8)

_MAP_REMEDIES = {
    errno.ENXIO: "the buffer's memory is no RAM of Dom0 but a carve-out; take the GPU's no-map pool"
    " (memory-region) out of Dom0's device tree, or boot Dom0 with galcore.contiguousSize=0",
    errno.EDQUOT: "this file holds as many pages as the kernel allows; raise the module parameter"
    " xen_gntdev.dmabuf_map_limit, or lower [quota] pages",
}


class GrantMapping:
    """Pages of another domain mapped into this process.

    ``map`` is a readable (and, if so asked, writable) mmap object. Owned by who made it. close() is
    idempotent and comes after every memoryview of ``map`` was released.
    """

    def __init__(self, fd: int, index: int, count: int, pages: mmap.mmap) -> None:
        self._fd = fd
        self._index = index
        self._count = count
        self.map = pages

    def close(self) -> None:
        if self._count == 0:
            return
        self.map.close()
        argument = bytearray(struct.pack("@QII", self._index, self._count, 0))
        self._count = 0
        ioctl.call(self._fd, _UNMAP_GRANT_REF, argument, PATH)


class Gntdev:
    """One open file of the device, for grants of one domain. Its close gives back all it holds.

    A buffer's dma-buf is named by the *number* of the descriptor that the first call was made with,
    for the kernel, and keeps that name in every process that has this file. A context manager.
    """

    def __init__(self, domid: int, fd: int = -1) -> None:
        """``fd``: an open file that is taken over, -1: open the device. OSError."""
        self.domid = domid
        self.fd = ioctl.open_device(PATH) if fd < 0 else fd

    def __enter__(self) -> Gntdev:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    # -- pages in this process

    def map(self, refs: list[int], *, writable: bool) -> GrantMapping:
        """Map ``refs`` in one piece; a wrong reference raises OSError."""
        argument = bytearray(struct.pack("@IIQ", len(refs), 0, 0))
        pairs = array.array("I")
        for ref in refs:
            pairs.extend((self.domid, ref))
        argument += pairs.tobytes()
        ioctl.call(self.fd, _MAP_GRANT_REF, argument, PATH)
        (index,) = struct.unpack_from("@Q", argument, 8)
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        size = len(refs) * PAGE_SIZE
        try:
            pages = mmap.mmap(self.fd, size, flags=mmap.MAP_SHARED, prot=protection, offset=index)
        except OSError as error:
            release = bytearray(struct.pack("@QII", index, len(refs), 0))
            ioctl.call(self.fd, _UNMAP_GRANT_REF, release, PATH)
            raise oserror(error.errno or errno.EIO, PATH) from error
        return GrantMapping(self.fd, index, len(refs), pages)

    def read_page(self, ref: int) -> bytes:
        """The 4096 bytes behind a grant reference, as they are now."""
        mapping = self.map([ref], writable=False)
        try:
            return mapping.map[:PAGE_SIZE]
        finally:
            mapping.close()

    # -- dma-bufs made of the domain's pages

    def export(self, refs: list[int]) -> int:
        """EXP_FROM_REFS: the descriptor of a dma-buf of these pages, owned by the caller."""
        argument = bytearray(struct.pack("@IIII", 0, len(refs), 0, self.domid))
        argument += array.array("I", refs).tobytes()
        ioctl.call(self.fd, _EXP_FROM_REFS, argument, PATH)
        return int(struct.unpack_from("@I", argument, 8)[0])

    def export_is_gone(self, number: int) -> bool:
        """Whether nobody has the exported dma-buf any more; doesn't block."""
        try:
            self._wait(_EXP_WAIT_RELEASED, number)
        except TimeoutError:
            return False
        except FileNotFoundError:  # gntdev.h: ENOENT isn't an error for what was exported
            pass
        return True

    # -- the domain's pages behind a buffer's

    def map_over(self, refs: list[int], dmabuf: int) -> None:
        """MAP_REFS_TO_BUF: put ``refs`` behind the pages of ``dmabuf``, from its first page on.

        The text of an OSError names the remedy where the administrator has one.
        """
        argument = bytearray(struct.pack("@IIIII", 0, len(refs), 0, dmabuf, self.domid))
        argument += array.array("I", refs).tobytes()
        try:
            ioctl.call(self.fd, _MAP_REFS_TO_BUF, argument, PATH)
        except OSError as error:
            text = _MAP_REMEDIES.get(error.errno or 0)
            if text is None:
                raise
            raise OSError(error.errno, f"MAP_REFS_TO_BUF: {text}", PATH) from error

    def release_over(self, number: int) -> None:
        """MAP_RELEASE: from now on the buffer's last user gives the pages back."""
        ioctl.call(self.fd, _MAP_RELEASE, bytearray(struct.pack("@II", number, 0)), PATH)

    def over_is_gone(self, number: int) -> bool:
        """Whether all pages of a released buffer were given back; doesn't block."""
        try:
            self._wait(_MAP_WAIT_RELEASED, number)
        except TimeoutError:
            return False
        return True

    def write_back(self, number: int) -> None:
        """MAP_SYNC: write the CPU's cache lines of the pages behind a buffer back to memory.

        Blocks for milliseconds.
        """
        ioctl.call(self.fd, _MAP_SYNC, bytearray(struct.pack("@II", number, 0)), PATH)

    def has_write_back(self) -> bool:
        """Whether the kernel knows MAP_SYNC: asked with a number that no mapping has."""
        try:
            self.write_back(0xFFFFFFFF)
        except OSError as error:
            return error.errno == errno.ENOENT
        return False

    def map_over_refusal(self) -> str:
        """Why MAP_REFS_TO_BUF can't work here, empty if it can (docs/kernel-abi.md: count 0)."""
        argument = bytearray(struct.pack("@IIIII", 0, 0, 0, 0, 0) + bytes(4))
        try:
            ioctl.call(self.fd, _MAP_REFS_TO_BUF, argument, PATH)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return ""
            if error.errno == errno.EOPNOTSUPP:
                return "Dom0 is not direct-mapped, or its pages are larger than 4 KiB"
            if error.errno == errno.ENOTTY:
                return "the kernel lacks this project's patches or CONFIG_XEN_GNTDEV_DMABUF"
            raise
        return ""

    def _wait(self, request: int, number: int) -> None:
        """Both waits, for 0 milliseconds."""
        ioctl.call(self.fd, request, bytearray(struct.pack("@II", number, 0)), PATH)
