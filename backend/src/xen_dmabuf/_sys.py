# SPDX-License-Identifier: MIT
"""The only module that calls ioctl, ctypes or a C library.

Every failure leaves as OSError with errno and the device's path (UserError for a library that is
not installed). Nothing here keeps state except handles of loaded libraries. All functions may be
called from any thread; those that block say so.

Sources: include/uapi/xen/gntdev.h, include/uapi/xen/evtchn.h, include/uapi/drm/drm.h and
drm_mode.h of Linux 6.12, gbm.h of Mesa; ioctls 15 to 18 of gntdev: docs/kernel-abi.md.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import functools
import glob
import mmap
import os
import struct

from .errors import UserError, oserror

PAGE_SIZE = 4096
GNTDEV = "/dev/xen/gntdev"
EVTCHN = "/dev/xen/evtchn"


def _ioc(direction: int, kind: str, number: int, size: int) -> int:
    """_IOC() of asm-generic/ioctl.h, the layout of arm64 and x86."""
    return direction << 30 | size << 16 | ord(kind) << 8 | number


_GNTDEV_MAP_GRANT_REF = _ioc(0, "G", 0, 24)
_GNTDEV_UNMAP_GRANT_REF = _ioc(0, "G", 1, 16)
_GNTDEV_DMABUF_EXP_FROM_REFS = _ioc(0, "G", 9, 20)
_GNTDEV_DMABUF_EXP_WAIT_RELEASED = _ioc(0, "G", 10, 8)
_GNTDEV_DMABUF_MAP_REFS_TO_BUF = _ioc(0, "G", 15, 24)
_GNTDEV_DMABUF_MAP_RELEASE = _ioc(0, "G", 16, 8)
_GNTDEV_DMABUF_MAP_WAIT_RELEASED = _ioc(0, "G", 17, 8)
_GNTDEV_DMABUF_MAP_SYNC = _ioc(0, "G", 18, 8)

_EVTCHN_BIND_INTERDOMAIN = _ioc(0, "E", 1, 8)
_EVTCHN_UNBIND = _ioc(0, "E", 3, 4)
_EVTCHN_NOTIFY = _ioc(0, "E", 4, 4)
_EVTCHN_RESTRICT_DOMID = _ioc(0, "E", 6, 2)

_DRM_VERSION = _ioc(3, "d", 0x00, 64)
_DRM_GET_CAP = _ioc(3, "d", 0x0C, 16)
_DRM_DROP_MASTER = _ioc(0, "d", 0x1F, 0)
_DRM_PRIME_HANDLE_TO_FD = _ioc(3, "d", 0x2D, 12)
_DRM_MODE_CREATE_DUMB = _ioc(3, "d", 0xB2, 32)
_DRM_MODE_DESTROY_DUMB = _ioc(3, "d", 0xB4, 4)

_DRM_CAP_DUMB_BUFFER = 1
_DRM_CLOEXEC = os.O_CLOEXEC
_DRM_RDWR = os.O_RDWR


def _ioctl(fd: int, request: int, argument: bytearray | int, path: str) -> int:
    while True:
        try:
            return fcntl.ioctl(fd, request, argument)
        except InterruptedError:
            continue  # Python repeats system calls after a signal, but not ioctl
        except OSError as error:
            raise oserror(error.errno or errno.EIO, path) from error


def open_device(path: str) -> int:
    """Open ``path`` read-write, close-on-exec."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def forbid_inspection() -> None:
    """Keep other processes of the same user out of this one's memory (PR_SET_DUMPABLE 0)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(4, 0, 0, 0, 0):
        raise oserror(ctypes.get_errno(), "prctl")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(36, 1, 0, 0, 0):
        raise oserror(ctypes.get_errno(), "prctl")


def name_process(name: str) -> None:
    """What ps and top show of this process (PR_SET_NAME): at most 15 octets."""
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)


# --- memory order -----------------------------------------------------------------------------


@functools.cache
def _fence():
    """atomic_thread_fence of libatomic: Python has no barrier and arm64 reorders."""
    try:
        function = ctypes.PyDLL("libatomic.so.1").atomic_thread_fence
    except (OSError, AttributeError) as error:
        raise UserError(
            f"libatomic.so.1 with atomic_thread_fence is needed for the shared rings: {error};"
            " install libatomic1 (Debian) or libatomic (OpenEmbedded)"
        ) from error
    function.argtypes = [ctypes.c_int]
    function.restype = None
    return function


def fence() -> None:
    """A full memory barrier among CPUs (memory_order_seq_cst; on arm64 `dmb ish`)."""
    _fence()(5)


# --- gntdev -----------------------------------------------------------------------------------


class GrantMapping:
    """Pages of another domain mapped into this process by gntdev.

    Owned by who made it; close() must come after every memoryview of ``map`` was released, it is
    idempotent. ``map`` is a readable (and, if so asked, writable) mmap object.
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
        _ioctl(self._fd, _GNTDEV_UNMAP_GRANT_REF, argument, GNTDEV)


def gntdev_map(fd: int, domid: int, refs: list[int], writable: bool) -> GrantMapping:
    """Map ``refs`` of ``domid`` in one piece; a wrong reference raises OSError."""
    argument = bytearray(struct.pack("@IIQ", len(refs), 0, 0))
    pairs = array.array("I")
    for ref in refs:
        pairs.extend((domid, ref))
    argument += pairs.tobytes()
    _ioctl(fd, _GNTDEV_MAP_GRANT_REF, argument, GNTDEV)
    (index,) = struct.unpack_from("@Q", argument, 8)
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    try:
        pages = mmap.mmap(
            fd, len(refs) * PAGE_SIZE, flags=mmap.MAP_SHARED, prot=protection, offset=index
        )
    except OSError as error:
        release = bytearray(struct.pack("@QII", index, len(refs), 0))
        _ioctl(fd, _GNTDEV_UNMAP_GRANT_REF, release, GNTDEV)
        raise oserror(error.errno or errno.EIO, GNTDEV) from error
    return GrantMapping(fd, index, len(refs), pages)


def gntdev_export(fd: int, domid: int, refs: list[int]) -> int:
    """EXP_FROM_REFS: a dma-buf made of the domain's pages; returns its fd, owned by the caller."""
    argument = bytearray(struct.pack("@IIII", 0, len(refs), 0, domid))
    argument += array.array("I", refs).tobytes()
    _ioctl(fd, _GNTDEV_DMABUF_EXP_FROM_REFS, argument, GNTDEV)
    return struct.unpack_from("@I", argument, 8)[0]


def gntdev_export_wait(fd: int, dmabuf: int, milliseconds: int) -> None:
    """Block until the exported buffer with fd number ``dmabuf`` is gone; TimeoutError if not."""
    argument = bytearray(struct.pack("@II", dmabuf, milliseconds))
    try:
        _ioctl(fd, _GNTDEV_DMABUF_EXP_WAIT_RELEASED, argument, GNTDEV)
    except FileNotFoundError:
        return  # gntdev.h: ENOENT "for valid file descriptors must not be treated as error"


_MAP_REMEDIES = {
    errno.ENXIO: "the buffer's memory is no RAM of Dom0 but a carve-out; take the GPU's no-map pool"
    " (memory-region) out of Dom0's device tree, or boot Dom0 with galcore.contiguousSize=0",
    errno.EDQUOT: "this process holds as many pages as the kernel allows; raise the module parameter"
    " xen_gntdev.dmabuf_map_limit, or lower [quota] pages",
}


def gntdev_map_to_buf(fd: int, domid: int, refs: list[int], dmabuf: int) -> None:
    """MAP_REFS_TO_BUF: put ``refs`` behind the pages of ``dmabuf``, starting at its first page.

    The text of an OSError names the remedy where the administrator has one.
    """
    argument = bytearray(struct.pack("@IIIII", 0, len(refs), 0, dmabuf, domid))
    argument += array.array("I", refs).tobytes()
    try:
        _ioctl(fd, _GNTDEV_DMABUF_MAP_REFS_TO_BUF, argument, GNTDEV)
    except OSError as error:
        text = _MAP_REMEDIES.get(error.errno or 0)
        if text is None:
            raise
        raise OSError(error.errno, f"MAP_REFS_TO_BUF: {text}", GNTDEV) from error


def gntdev_map_release(fd: int, dmabuf: int) -> None:
    """MAP_RELEASE: from now on the last reference to ``dmabuf`` gives the pages back."""
    argument = bytearray(struct.pack("@II", dmabuf, 0))
    _ioctl(fd, _GNTDEV_DMABUF_MAP_RELEASE, argument, GNTDEV)


def gntdev_map_wait(fd: int, dmabuf: int, milliseconds: int) -> None:
    """Block until no released mapping with fd *number* ``dmabuf`` is left; else TimeoutError."""
    argument = bytearray(struct.pack("@II", dmabuf, milliseconds))
    _ioctl(fd, _GNTDEV_DMABUF_MAP_WAIT_RELEASED, argument, GNTDEV)


def gntdev_map_sync(fd: int, dmabuf: int) -> None:
    """MAP_SYNC: write the CPU's cache lines of the pages behind ``dmabuf`` back to memory.

    Blocks for milliseconds. ``dmabuf``: the number that MAP_REFS_TO_BUF was called with.
    """
    _ioctl(fd, _GNTDEV_DMABUF_MAP_SYNC, bytearray(struct.pack("@II", dmabuf, 0)), GNTDEV)


def gntdev_has_sync(fd: int) -> bool:
    """Whether the kernel knows MAP_SYNC: asked with a number that no mapping has."""
    try:
        gntdev_map_sync(fd, 0xFFFFFFFF)
    except OSError as error:
        return error.errno == errno.ENOENT
    return False


def gntdev_map_refusal(fd: int) -> str:
    """Why MAP_REFS_TO_BUF can't work here, empty if it can (docs/kernel-abi.md: count 0)."""
    argument = bytearray(struct.pack("@IIIII", 0, 0, 0, 0, 0) + bytes(4))
    try:
        _ioctl(fd, _GNTDEV_DMABUF_MAP_REFS_TO_BUF, argument, GNTDEV)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return ""
        if error.errno == errno.EOPNOTSUPP:
            return "Dom0 is not direct-mapped, or its pages are larger than 4 KiB"
        if error.errno == errno.ENOTTY:
            return "the kernel lacks this project's patches or CONFIG_XEN_GNTDEV_DMABUF"
        raise
    return ""


# --- evtchn -----------------------------------------------------------------------------------


def evtchn_restrict(fd: int, domid: int) -> None:
    """Let this file bind event channels of ``domid`` only, for good."""
    _ioctl(fd, _EVTCHN_RESTRICT_DOMID, bytearray(struct.pack("@H", domid)), EVTCHN)


def evtchn_bind(fd: int, domid: int, remote_port: int) -> int:
    """Bind ``remote_port`` of ``domid``; returns the local port."""
    argument = bytearray(struct.pack("@II", domid, remote_port))
    return _ioctl_value(fd, _EVTCHN_BIND_INTERDOMAIN, argument, EVTCHN)


def evtchn_unbind(fd: int, port: int) -> None:
    _ioctl(fd, _EVTCHN_UNBIND, bytearray(struct.pack("@I", port)), EVTCHN)


def evtchn_notify(fd: int, port: int) -> None:
    _ioctl(fd, _EVTCHN_NOTIFY, bytearray(struct.pack("@I", port)), EVTCHN)


def evtchn_read(fd: int) -> list[int]:
    """The local ports that fired; each stays masked until evtchn_unmask()."""
    ports = array.array("I")
    data = os.read(fd, 4 * 64)
    ports.frombytes(data[: len(data) // 4 * 4])
    return ports.tolist()


def evtchn_unmask(fd: int, port: int) -> None:
    os.write(fd, struct.pack("@I", port))


def _ioctl_value(fd: int, request: int, argument: bytearray, path: str) -> int:
    """An ioctl whose result is its return value (Python returns it for a mutable buffer)."""
    return _ioctl(fd, request, argument, path)


# --- DRM --------------------------------------------------------------------------------------


def drm_open(path: str) -> int:
    """Open a DRM node and never stay its master.

    The first to open a primary node becomes master; if that is this process, the compositor could
    not set a mode any more.
    """
    fd = open_device(path)
    try:
        fcntl.ioctl(fd, _DRM_DROP_MASTER)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            os.close(fd)
            raise oserror(error.errno or errno.EIO, path) from error
    return fd


def drm_driver(fd: int, path: str) -> str:
    """The DRM driver's name (DRM_IOCTL_VERSION)."""
    name = ctypes.create_string_buffer(64)
    argument = bytearray(
        struct.pack("@iiiNNNNNN", 0, 0, 0, len(name) - 1, ctypes.addressof(name), 0, 0, 0, 0)
    )
    _ioctl(fd, _DRM_VERSION, argument, path)
    return name.value.decode("ascii", "replace")


def drm_has_dumb(fd: int, path: str) -> bool:
    argument = bytearray(struct.pack("@QQ", _DRM_CAP_DUMB_BUFFER, 0))
    _ioctl(fd, _DRM_GET_CAP, argument, path)
    return struct.unpack_from("@Q", argument, 8)[0] != 0


def drm_create_dumb(fd: int, width: int, height: int, bpp: int, path: str) -> tuple[int, int, int]:
    """A dumb buffer: (handle, pitch in bytes, size in bytes)."""
    argument = bytearray(struct.pack("@IIIIIIQ", height, width, bpp, 0, 0, 0, 0))
    _ioctl(fd, _DRM_MODE_CREATE_DUMB, argument, path)
    return struct.unpack_from("@IIQ", argument, 16)


def drm_destroy_dumb(fd: int, handle: int, path: str) -> None:
    _ioctl(fd, _DRM_MODE_DESTROY_DUMB, bytearray(struct.pack("@I", handle)), path)


def drm_prime_fd(fd: int, handle: int, path: str) -> int:
    """The dma-buf of a GEM handle, open for reading and writing as MAP_REFS_TO_BUF demands."""
    argument = bytearray(struct.pack("@IIi", handle, _DRM_CLOEXEC | _DRM_RDWR, -1))
    _ioctl(fd, _DRM_PRIME_HANDLE_TO_FD, argument, path)
    return struct.unpack_from("@i", argument, 8)[0]


# --- libgbm -----------------------------------------------------------------------------------

GBM_BO_USE_SCANOUT = 1 << 0
GBM_BO_USE_RENDERING = 1 << 2
GBM_BO_USE_LINEAR = 1 << 4


@functools.cache
def _gbm() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libgbm.so.1", use_errno=True)
    except OSError as error:
        raise UserError(
            f"allocator \"gbm\" needs libgbm.so.1: {error}; install libgbm1 (Debian), libgbm"
            " (OpenEmbedded) or the vendor's, or choose allocator \"dumb\""
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


# where Mesa 25 has the drivers behind its libgbm; older ones load them elsewhere
_MESA_DRIVERS = ("/usr/lib*/gbm/dri_gbm.so", "/usr/lib/*/gbm/dri_gbm.so")


def preload_mesa() -> None:
    """Load Mesa's drivers for libgbm, if they are there: forked processes share what that costs.

    Opens no device and starts no thread. Another vendor's libgbm is left to the worker: what its
    libraries do when they are loaded is not known here.
    """
    for path in (found for pattern in _MESA_DRIVERS for found in glob.glob(pattern)):
        with contextlib.suppress(OSError):
            ctypes.CDLL(path)


class GbmBo:
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
            return drm_prime_fd(self._drm_fd, handle, self._path)
        except OSError:
            fd = _gbm().gbm_bo_get_fd(self._pointer)
            if fd < 0:
                raise
            return fd

    def destroy(self) -> None:
        if self._pointer:
            _gbm().gbm_bo_destroy(self._pointer)
            self._pointer = 0


class GbmDevice:
    """libgbm's device over an open DRM file, which stays the caller's. One thread only."""

    def __init__(self, drm_fd: int, path: str) -> None:
        self._drm_fd = drm_fd
        self._path = path
        ctypes.set_errno(0)
        self._pointer = _gbm().gbm_create_device(drm_fd)
        if not self._pointer:
            raise oserror(ctypes.get_errno() or errno.ENODEV, path)

    def create(self, width: int, height: int, fourcc: int, flags: int) -> GbmBo:
        ctypes.set_errno(0)
        pointer = _gbm().gbm_bo_create(self._pointer, width, height, fourcc, flags)
        if not pointer:
            raise oserror(ctypes.get_errno() or errno.ENOMEM, self._path)
        return GbmBo(pointer, self._drm_fd, self._path)

    def close(self) -> None:
        if self._pointer:
            _gbm().gbm_device_destroy(self._pointer)
            self._pointer = 0
