# SPDX-License-Identifier: MIT
"""The ways a DomU's pages reach the compositor, and how they are taken back.

``map``     a buffer object of the GPU's own allocator, the DomU's pages put behind it
            (MAP_REFS_TO_BUF): zero copy where the GPU imports nothing foreign.
``export``  a dma-buf that gntdev makes of the pages (EXP_FROM_REFS): zero copy where it may.
``copy``    the pages mapped read-only and copied into a wl_shm pool at each flip: always works.

A Backing owns all that the kernel holds for one display buffer, and a gntdev file of its own: what
that file holds ends with it, and another process can take both over. Release is two steps, because
the compositor must let go in between and may take its time: release() gives up everything of ours
at once, is_gone() says whether the kernel has given the pages back; then close(). One thread only.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Protocol

from ..config import Gpu
from ..errors import UserError
from ..xen.gntdev import Gntdev, GrantMapping
from .allocators import Allocator, BufferObject, ScansOut, Shape, open_allocator, says_nothing

_FIRST_NUMBER = 1024  # of a mapped dma-buf: the kernel knows it by this, also in another process


class Backing(Protocol):
    """``dmabuf`` is the fd to hand to the compositor, None for wl_shm; ``number`` is what gntdev
    knows it by, -1 for none."""

    strategy: str
    allocator: str
    why: str
    dmabuf: int | None
    number: int
    gntdev: Gntdev

    def release(self) -> None:
        """Give up every reference of this process; the wl_buffers are gone before. Idempotent."""

    def is_gone(self) -> bool:
        """Whether no page is mapped any more; doesn't block. OSError."""

    def close(self) -> None:
        """Close the gntdev file, whatever the compositor still holds. Idempotent."""


class _Adopted:
    """A buffer object that another process allocated: only its dma-buf is left."""

    stride = 0

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def destroy(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class MapBacking:
    """The buffer object whose pages are the DomU's; order: MAP_RELEASE, destroy, close."""

    strategy = "map"

    def __init__(self, gntdev: Gntdev, bo: BufferObject, number: int, allocator: str, why: str = "") -> None:
        """``number``: the descriptor of the dma-buf that MAP_REFS_TO_BUF was called with."""
        self.gntdev = gntdev
        self.bo = bo
        self.number = number
        self.dmabuf: int | None = number
        self.allocator = allocator
        self.why = why

    @classmethod
    def adopt(cls, gntdev: Gntdev, number: int, allocator: str, why: str) -> MapBacking:
        """What another process made, of its two files."""
        return cls(gntdev, _Adopted(-1), number, allocator, why)

    def release(self) -> None:
        number, self.dmabuf = self.dmabuf, None
        if number is None:
            return
        try:
            self.gntdev.release_over(self.number)
        finally:
            os.close(number)
            self.bo.destroy()

    def write_back(self) -> None:
        """Write the CPU's caches of the DomU's pages back; blocks, may run in any thread."""
        self.gntdev.write_back(self.number)

    def is_gone(self) -> bool:
        return self.gntdev.over_is_gone(self.number)

    def close(self) -> None:
        self.gntdev.close()


class ExportBacking:
    """gntdev's own dma-buf; its last close unmaps the pages."""

    strategy = "export"
    allocator = "gntdev"

    def __init__(self, gntdev: Gntdev, dmabuf: int, why: str = "") -> None:
        self.gntdev = gntdev
        self.dmabuf: int | None = dmabuf
        self.number = dmabuf
        self.why = why

    def release(self) -> None:
        if self.dmabuf is not None:
            os.close(self.dmabuf)
            self.dmabuf = None

    def is_gone(self) -> bool:
        return self.gntdev.export_is_gone(self.number)

    def close(self) -> None:
        self.gntdev.close()


class CopyBacking:
    """The pages mapped here, and a pool (memfd) that the compositor reads instead of them."""

    strategy = "copy"
    allocator = "wl_shm"
    dmabuf: int | None = None
    number = -1

    def __init__(self, gntdev: Gntdev, mapping: GrantMapping, size: int, why: str = "") -> None:
        """``size``: bytes of the buffer that hold pixels, from its start. OSError leaves nothing."""
        self.gntdev = gntdev
        self._mapping = mapping
        self.size = size
        self.why = why
        self.pool = os.memfd_create("xen-dmabuf", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.pool, size)
            self._pool_map = mmap.mmap(self.pool, size)
        except OSError:
            os.close(self.pool)
            raise
        self._source = memoryview(mapping.map)[:size]
        self._destination = memoryview(self._pool_map)

    def copy(self, start: int, length: int) -> int:
        """Copy ``length`` bytes of pixels from ``start`` on into the pool; returns the bytes."""
        end = min(start + length, self.size)
        self._destination[start:end] = self._source[start:end]
        return end - start

    def views(self, start: int, length: int) -> tuple[memoryview, memoryview]:
        """Where copy() would write and read; to be released before release()."""
        end = min(start + length, self.size)
        return self._destination[start:end], self._source[start:end]

    def release(self) -> None:
        if self.pool < 0:
            return
        self._source.release()
        self._destination.release()
        self._pool_map.close()
        os.close(self.pool)
        self.pool = -1
        self._mapping.close()

    def is_gone(self) -> bool:
        """release() has unmapped the pages."""
        return True

    def close(self) -> None:
        self.gntdev.close()


class NoStrategy(Exception):
    """No strategy of the configuration took the buffer; the message has each one's reason."""


class BackingFactory:
    """Makes backings for one DomU, trying the configured strategies in order.

    Owns the allocators and the DRM file. ``drm_fd`` may be -1: then ``map`` fails with ``drm_why``
    and the others go on.
    """

    def __init__(
        self,
        domid: int,
        gpu: Gpu,
        drm_fd: int,
        drm_path: str,
        drm_why: str = "",
        scans_out: ScansOut = says_nothing,
    ) -> None:
        self._domid = domid
        self._gpu = gpu
        self._drm_fd = drm_fd
        self._drm_path = drm_path
        self._drm_why = drm_why
        self._scans_out = scans_out
        self._allocators: dict[str, Allocator] = {}

    def close(self) -> None:
        while self._allocators:
            self._allocators.popitem()[1].close()
        if self._drm_fd >= 0:
            os.close(self._drm_fd)
            self._drm_fd = -1

    def prepare(self) -> None:
        """Load what the first buffer would wait for: a GPU's library can take seconds.

        The frontend gives up a request after 3 s (drm_xen_front). What fails here fails again, with
        its reason, for the buffer that needs it: the next allocator or strategy is tried then.
        """
        if self._drm_fd < 0 or "map" not in self._gpu.strategies:
            return
        for name in self._gpu.allocators:
            try:
                self._allocator(name)
            except (OSError, UserError):
                continue
            return

    def make(self, refs: list[int], shape: Shape, size: int, refused: dict[str, str]) -> Backing:
        """``refused``: strategies not to try, with the reason; it gets the new reasons, too.

        NoStrategy if none is left.
        """
        for strategy in self._gpu.strategies:
            if strategy in refused:
                continue
            try:
                backing = make_backing(self, strategy, refs, shape, size)
            except (OSError, UserError) as error:
                refused[strategy] = str(error)
                continue
            reasons = [f"{name}: {text}" for name, text in refused.items()]
            reasons += [backing.why] if backing.why else []  # of other allocators
            backing.why = "; ".join(reasons) or "first choice of the configuration"
            return backing
        raise NoStrategy("; ".join(f"{name}: {text}" for name, text in refused.items()))

    def map(self, refs: list[int], shape: Shape) -> MapBacking:
        """OSError or UserError with each allocator's reason."""
        if self._drm_fd < 0:
            raise UserError(self._drm_why)
        reasons: list[str] = []
        for name in self._gpu.allocators:
            try:
                return self._map(name, refs, shape, ", ".join(reasons))
            except (OSError, UserError) as error:
                reasons.append(f"{name}: {error}")
        raise UserError(", ".join(reasons))

    def _map(self, name: str, refs: list[int], shape: Shape, why: str) -> MapBacking:
        bo = self._allocator(name).create(shape)
        number = -1
        gntdev = None
        try:
            number = fcntl.fcntl(bo.fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_NUMBER)
            gntdev = Gntdev(self._domid)
            gntdev.map_over(refs, number)
        except OSError:
            if gntdev:
                gntdev.close()
            if number >= 0:
                os.close(number)
            bo.destroy()
            raise
        os.close(bo.fd)  # the number is enough
        bo.fd = -1
        return MapBacking(gntdev, bo, number, name, why)

    def export(self, refs: list[int]) -> ExportBacking:
        gntdev = Gntdev(self._domid)
        try:
            return ExportBacking(gntdev, gntdev.export(refs))
        except OSError:
            gntdev.close()
            raise

    def copy(self, refs: list[int], size: int) -> CopyBacking:
        gntdev = Gntdev(self._domid)
        mapping = None
        try:
            mapping = gntdev.map(refs, writable=False)
            return CopyBacking(gntdev, mapping, size)
        except OSError:
            if mapping:
                mapping.close()
            gntdev.close()
            raise

    def _allocator(self, name: str) -> Allocator:
        if name not in self._allocators:
            self._allocators[name] = open_allocator(name, self._drm_fd, self._drm_path, self._scans_out)
        return self._allocators[name]


def make_backing(factory: BackingFactory, strategy: str, refs: list[int], shape: Shape, size: int) -> Backing:
    """A backing of one strategy. OSError or UserError says why not."""
    if strategy == "map":
        return factory.map(refs, shape)
    if strategy == "export":
        return factory.export(refs)
    return factory.copy(refs, size)
