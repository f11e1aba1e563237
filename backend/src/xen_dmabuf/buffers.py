# SPDX-License-Identifier: MIT
"""The ways a DomU's pages reach the compositor, and how they are taken back.

``map``     a buffer object of the GPU's own allocator, the DomU's pages put behind it
            (MAP_REFS_TO_BUF): zero copy where the GPU imports nothing foreign.
``export``  a dma-buf that gntdev makes of the pages (EXP_FROM_REFS): zero copy where it may.
``copy``    the pages mapped read-only and copied into a wl_shm pool at each flip: always works.

A Backing owns all that the kernel holds for one display buffer. Release is two steps, because the
compositor must let go in between and may take its time: release() gives up everything of ours at
once, wait() blocks until the kernel has given the pages back. The backing's creator calls both;
release() is idempotent. One thread for all but wait().
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from dataclasses import dataclass, field
from typing import Protocol

from . import _sys
from .allocators import Allocator, BufferObject, Shape, open_allocator
from .config import Gpu
from .errors import UserError, oserror


class Backing(Protocol):
    """``dmabuf`` is the fd to hand to the compositor, None for wl_shm."""

    strategy: str
    allocator: str
    why: str
    dmabuf: int | None

    def release(self) -> None:
        """Give up every reference of this process; the wl_buffers are gone before."""

    def wait(self, milliseconds: int) -> None:
        """Block until no page is mapped any more; TimeoutError if the compositor holds on."""


@dataclass
class MapBacking:
    """The buffer object whose pages are the DomU's; order: MAP_RELEASE, destroy, close, wait."""

    gntdev: int
    bo: BufferObject
    allocator: str
    why: str = ""
    strategy: str = field(default="map", init=False)

    def __post_init__(self) -> None:
        self.dmabuf: int | None = self.bo.fd
        self._number = self.bo.fd

    def release(self) -> None:
        if self.dmabuf is None:
            return
        self.dmabuf = None
        try:
            _sys.gntdev_map_release(self.gntdev, self._number)
        finally:
            self.bo.destroy()

    def write_back(self) -> None:
        """Write the CPU's caches of the DomU's pages back; blocks, may run in any thread."""
        _sys.gntdev_map_sync(self.gntdev, self._number)

    def wait(self, milliseconds: int) -> None:
        _sys.gntdev_map_wait(self.gntdev, self._number, milliseconds)


@dataclass
class ExportBacking:
    """gntdev's own dma-buf; its last close unmaps the pages."""

    gntdev: int
    dmabuf: int | None
    why: str = ""
    allocator: str = field(default="gntdev", init=False)
    strategy: str = field(default="export", init=False)

    def __post_init__(self) -> None:
        assert self.dmabuf is not None
        self._number = self.dmabuf

    def release(self) -> None:
        if self.dmabuf is not None:
            os.close(self.dmabuf)
            self.dmabuf = None

    def wait(self, milliseconds: int) -> None:
        _sys.gntdev_export_wait(self.gntdev, self._number, milliseconds)


class CopyBacking:
    """The pages mapped here, and a pool (memfd) that the compositor reads instead of them."""

    strategy = "copy"
    allocator = "wl_shm"
    dmabuf = None

    def __init__(self, mapping: _sys.GrantMapping, size: int, why: str = "") -> None:
        """``size``: octets of the buffer that hold pixels, from its start."""
        self._mapping = mapping
        self.size = size
        self.why = why
        self.pool = os.memfd_create("xen-dmabuf", os.MFD_CLOEXEC)
        os.ftruncate(self.pool, size)
        self._destination_map = mmap.mmap(self.pool, size)
        self._source = memoryview(mapping.map)[:size]
        self._destination = memoryview(self._destination_map)

    def copy(self) -> int:
        """Copy all pixels into the pool; returns the octets copied."""
        self._destination[:] = self._source
        return self.size

    def release(self) -> None:
        if self.pool < 0:
            return
        self._source.release()
        self._destination.release()
        self._destination_map.close()
        os.close(self.pool)
        self.pool = -1
        self._mapping.close()

    def wait(self, milliseconds: int) -> None:
        """Nothing to wait for: release() has unmapped the pages."""


class NoStrategy(Exception):
    """No strategy of the configuration took the buffer; the message has each one's reason."""


class BackingFactory:
    """Makes backings for one DomU, trying the configured strategies in order.

    Owns the allocators, not the files given to it. ``drm_fd`` may be -1: then ``map`` fails with
    ``drm_why`` and the others go on.
    """

    def __init__(
        self, gntdev: int, domid: int, gpu: Gpu, drm_fd: int, drm_path: str, drm_why: str = ""
    ) -> None:
        self._gntdev = gntdev
        self._domid = domid
        self._gpu = gpu
        self._drm_fd = drm_fd
        self._drm_path = drm_path
        self._drm_why = drm_why
        self._allocators: dict[str, Allocator] = {}

    def close(self) -> None:
        while self._allocators:
            self._allocators.popitem()[1].close()

    def prepare(self) -> None:
        """Load what the first buffer would wait for: a GPU's library can take seconds.

        The frontend gives up a request after 3 s (drm_xen_front). What fails here fails again, with
        its reason, for the buffer that needs it.
        """
        if self._drm_fd >= 0 and "map" in self._gpu.strategies:
            with contextlib.suppress(OSError):
                self._allocator(self._gpu.allocators[0])

    def make(self, refs: list[int], shape: Shape, size: int, refused: dict[str, str]) -> Backing:
        """``refused``: strategies not to try, with the reason; it gets the new reasons, too.

        NoStrategy if none is left.
        """
        for strategy in self._gpu.strategies:
            if strategy in refused:
                continue
            try:
                backing = self._make_one(strategy, refs, shape, size)
            except (OSError, UserError) as error:
                refused[strategy] = str(error)
                continue
            backing.why = "; ".join(f"{name}: {text}" for name, text in refused.items())
            backing.why = backing.why or "first choice of the configuration"
            return backing
        raise NoStrategy("; ".join(f"{name}: {text}" for name, text in refused.items()))

    def _make_one(self, strategy: str, refs: list[int], shape: Shape, size: int) -> Backing:
        if strategy == "map":
            return self._make_map(refs, shape)
        if strategy == "export":
            return ExportBacking(
                self._gntdev, _sys.gntdev_export(self._gntdev, self._domid, refs)
            )
        mapping = _sys.gntdev_map(self._gntdev, self._domid, refs, writable=False)
        try:
            return CopyBacking(mapping, size)
        except OSError:
            mapping.close()
            raise

    def _make_map(self, refs: list[int], shape: Shape) -> MapBacking:
        if self._drm_fd < 0:
            raise UserError(self._drm_why)
        reasons = []
        for name in self._gpu.allocators:
            try:
                bo = self._allocator(name).create(shape)
            except (OSError, UserError) as error:
                reasons.append(f"{name}: {error}")
                continue
            try:
                _sys.gntdev_map_to_buf(self._gntdev, self._domid, refs, bo.fd)
            except OSError as error:
                bo.destroy()
                reasons.append(f"{name}: {error}")
                continue
            return MapBacking(self._gntdev, bo, name)
        raise UserError(", ".join(reasons))

    def _allocator(self, name: str) -> Allocator:
        if name not in self._allocators:
            self._allocators[name] = open_allocator(name, self._drm_fd, self._drm_path)
        return self._allocators[name]


def wait_released(backing: Backing, seconds: float) -> None:
    """Block for at most ``seconds``, in slices so that a killed process ends soon."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise oserror(errno.ETIMEDOUT, _sys.GNTDEV)
        try:
            return backing.wait(max(1, min(500, int(left * 1000))))
        except TimeoutError:
            continue
