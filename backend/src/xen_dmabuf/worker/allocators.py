# SPDX-License-Identifier: MIT
"""Buffer objects for strategy ``map``: from libgbm or as dumb buffers of the card.

The frontend's bytes decide the layout: the wl_buffer has the frontend's stride, so a buffer object
only has to be large enough. One thread only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from ..displif import fourcc
from ..linux import drm, gbm
from ..record import record
from ..xen.gntdev import PAGE_SIZE

_ROW = 1024  # pixels of 32 bits that fill one page
ScansOut = Callable[[int], bool | None]


def says_nothing(_code: int) -> None:
    """The ScansOut of a compositor that doesn't say."""


@record
class Shape:
    """What the frontend needs: pixels, bits per pixel, and whole pages of 4096 bytes."""

    width: int
    height: int
    bpp: int
    pages: int


class BufferObject(Protocol):
    """``fd``: dma-buf, open for writing, ``stride``: the allocator's own, in bytes.

    destroy() closes the fd and frees the object; idempotent.
    """

    fd: int
    stride: int

    def destroy(self) -> None: ...


class Allocator(Protocol):
    name: str

    def create(self, shape: Shape) -> BufferObject: ...

    def close(self) -> None: ...


def _size(fd: int) -> int:
    """The size of a dma-buf (dma-buf.c supports SEEK_END for that)."""
    size = os.lseek(fd, 0, os.SEEK_END)
    os.lseek(fd, 0, os.SEEK_SET)
    return size


class _DumbObject:
    def __init__(self, drm_fd: int, path: str, width: int, height: int) -> None:
        self._drm_fd = drm_fd
        self._path = path
        self._handle, self.stride, self.size = drm.create_dumb(drm_fd, width, height, 32, path)
        self.fd = -1
        try:
            self.fd = drm.prime_fd(drm_fd, self._handle, path)
        except OSError:
            self.destroy()
            raise

    def destroy(self) -> None:
        if self._handle:
            drm.destroy_dumb(self._drm_fd, self._handle, self._path)
            self._handle = 0
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class DumbAllocator:
    """Dumb buffers of the card node (a render node refuses them)."""

    name = "dumb"

    def __init__(self, drm_fd: int, path: str) -> None:
        self._drm_fd = drm_fd
        self._path = path

    def create(self, shape: Shape) -> BufferObject:
        if shape.bpp == 32 and shape.width and shape.height:
            candidate = _DumbObject(self._drm_fd, self._path, shape.width, shape.height)
            if candidate.size >= shape.pages * PAGE_SIZE:
                return candidate
            candidate.destroy()
        # virtio-gpu has no other depth than 32 and what matters is the size
        return _DumbObject(self._drm_fd, self._path, _ROW, shape.pages)

    def close(self) -> None:
        """Nothing of its own: the card's file belongs to who made it."""


class _GbmObject:
    def __init__(self, bo: gbm.Bo) -> None:
        self._bo = bo
        self.stride = bo.stride
        self.fd = -1
        try:
            self.fd = bo.prime_fd()
            self.size = _size(self.fd)
        except OSError:
            self.destroy()
            raise

    def destroy(self) -> None:
        self._bo.destroy()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def uses(scans_out: bool | None) -> tuple[int, ...]:
    """The flags of gbm_bo_create() to try, in this order; ``scans_out``: what the compositor prefers, None if it
    doesn't say. Then memory that can be scanned out comes first, as more devices read it than any other."""
    scanout, rendering, any_ = gbm.USE_LINEAR | gbm.USE_SCANOUT, gbm.USE_LINEAR | gbm.USE_RENDERING, gbm.USE_LINEAR
    if scans_out is None:
        return scanout, rendering, any_
    return (scanout | rendering, scanout, rendering, any_) if scans_out else (rendering, scanout, any_)


class GbmAllocator:
    """libgbm: what a vendor's EGL accepts at import (i.MX8: nothing else is)."""

    name = "gbm"

    def __init__(self, drm_fd: int, path: str, scans_out: ScansOut = says_nothing) -> None:
        self._path = path
        self._scans_out = scans_out
        self._device = gbm.Device(drm_fd, path)
        self._has_16_bits = True

    def create(self, shape: Shape) -> BufferObject:
        candidate = self._of_its_format(shape) if shape.width and shape.height else None
        if candidate:
            if candidate.size >= shape.pages * PAGE_SIZE:
                return candidate
            candidate.destroy()
        return self._create(_ROW, shape.pages, fourcc.XRGB8888)

    def _of_its_format(self, shape: Shape) -> _GbmObject | None:
        """None if there is none. A driver that can't is asked once: libgbm complains on stderr each time, also
        if it has said that the format is supported."""
        if shape.bpp == 32:
            return self._create(shape.width, shape.height, fourcc.XRGB8888)
        if shape.bpp != 16 or not self._has_16_bits:
            return None
        try:
            return self._create(shape.width, shape.height, fourcc.RGB565)
        except OSError:
            self._has_16_bits = False
            return None

    def _create(self, width: int, height: int, code: int) -> _GbmObject:
        error: OSError | None = None
        for flags in uses(self._scans_out(code)):
            try:
                return _GbmObject(self._device.create(width, height, code, flags))
            except OSError as failure:
                error = failure
        assert error is not None
        raise error

    def close(self) -> None:
        self._device.close()


def open_allocator(name: str, drm_fd: int, path: str, scans_out: ScansOut = says_nothing) -> Allocator:
    """UserError if its library is missing, OSError if the device refuses. ``scans_out(code)``: what the compositor
    prefers for a format, see uses()."""
    return GbmAllocator(drm_fd, path, scans_out) if name == "gbm" else DumbAllocator(drm_fd, path)
