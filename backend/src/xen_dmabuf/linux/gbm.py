# SPDX-License-Identifier: MIT
"""libgbm, loaded at the first use. Failures are OSError with the DRM node's path.

Source: gbm.h of Mesa. One thread only.
"""

from __future__ import annotations

import ctypes
import errno
import functools

from ..errors import UserError, oserror
from . import drm

USE_SCANOUT = 1 << 0
USE_RENDERING = 1 << 2
USE_LINEAR = 1 << 4


@functools.cache
def _gbm() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libgbm.so.1", use_errno=True)
    except OSError as error:
        raise UserError(
            f'allocator "gbm" needs libgbm.so.1: {error}; install libgbm1 (Debian), libgbm'
            ' (OpenEmbedded) or the vendor\'s, or choose allocator "dumb"'
        ) from error
    pointer, u32 = ctypes.c_void_p, ctypes.c_uint32
    for name, result, arguments in (
        ("gbm_create_device", pointer, [ctypes.c_int]),
        ("gbm_device_destroy", None, [pointer]),
        ("gbm_bo_create", pointer, [pointer, u32, u32, u32, u32]),
        ("gbm_bo_destroy", None, [pointer]),
        ("gbm_bo_get_stride", u32, [pointer]),
        ("gbm_bo_get_handle", ctypes.c_uint64, [pointer]),
        ("gbm_bo_get_fd", ctypes.c_int, [pointer]),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


class Bo:
    """One gbm buffer object. destroy() is idempotent and does not close fds of prime_fd()."""

    def __init__(self, pointer: int, drm_fd: int, path: str) -> None:
        self._pointer = pointer
        self._drm_fd = drm_fd
        self._path = path
        self.stride = _gbm().gbm_bo_get_stride(pointer)

    def prime_fd(self) -> int:
        """A dma-buf fd open for writing; gbm_bo_get_fd only where the handle isn't this file's."""
        handle = _gbm().gbm_bo_get_handle(self._pointer) & 0xFFFFFFFF
        try:
            return drm.prime_fd(self._drm_fd, handle, self._path)
        except OSError:
            fd: int = _gbm().gbm_bo_get_fd(self._pointer)
            if fd < 0:
                raise
            return fd

    def destroy(self) -> None:
        if self._pointer:
            _gbm().gbm_bo_destroy(self._pointer)
            self._pointer = 0


class Device:
    """libgbm's device over an open DRM file, which stays the caller's. One thread only."""

    def __init__(self, drm_fd: int, path: str) -> None:
        self._drm_fd = drm_fd
        self._path = path
        ctypes.set_errno(0)
        self._pointer = _gbm().gbm_create_device(drm_fd)
        if not self._pointer:
            raise oserror(ctypes.get_errno() or errno.ENODEV, path)

    def create(self, width: int, height: int, fourcc: int, flags: int) -> Bo:
        ctypes.set_errno(0)
        pointer = _gbm().gbm_bo_create(self._pointer, width, height, fourcc, flags)
        if not pointer:
            raise oserror(ctypes.get_errno() or errno.ENOMEM, self._path)
        return Bo(pointer, self._drm_fd, self._path)

    def close(self) -> None:
        if self._pointer:
            _gbm().gbm_device_destroy(self._pointer)
            self._pointer = 0
