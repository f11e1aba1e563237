# SPDX-License-Identifier: MIT
"""The display buffers of one device: made, checked against the quota, backed, given back, stored.

Framebuffers are in framebuffers.py and know their display buffer; this room doesn't know them.
Asyncio thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Iterator

from .. import limits
from ..config import Gpu, Quota
from ..displif import directory, geometry, wire
from ..errors import RequestError
from ..link.messages import BufferStatus
from ..log import RateLimit, fields
from ..xen.gntdev import Gntdev
from .allocators import Shape
from .backing import Backing, BackingFactory, ExportBacking, MapBacking, NoStrategy, make_backing
from .releases import Releases
from .state import StoredBuffer, pack_buffer, read_buffer
from .statefile import StateError
from .store import FdStore

log = logging.getLogger(__name__)

_FILES = ("gntdev", "dmabuf", "buffer")
_LONGEST = 8 << 20  # bytes of a buffer's file: 4 for each of 2^20 pages, and its text
_number = itertools.count(1)
_NO_GPU = Gpu()


def _store_name(number: int, what: str) -> str:
    return f"b{number}.{what}"


def stored_number(name: str) -> int | None:
    """The number of the display buffer whose file has this name; None for another file."""
    head, _dot, what = name.partition(".")
    return int(head[1:]) if what in _FILES and head[:1] == "b" and head[1:].isdecimal() else None


class DisplayBuffer:
    """A display buffer of the DomU; ``backing`` is None until its geometry is known."""

    def __init__(self, cookie: int, number: int, shape: Shape, buffer_sz: int, data_ofs: int, refs: list[int]) -> None:
        self.cookie = cookie
        self.number = number
        self.shape = shape
        self.stride = 0
        self.buffer_sz = buffer_sz
        self.data_ofs = data_ofs
        self.refs = refs
        self.backing: Backing | None = None
        self.was_read = False
        """Whether a compositor has read its pages by a wl_buffer that is gone."""
        self.refused: dict[str, str] = {}
        self.importing = asyncio.Lock()
        self.suspected = False
        self.losses = 0

    def set_geometry(self, width: int, height: int, bpp: int) -> None:
        """Pixels and bits per pixel."""
        self.shape = Shape(width, height, bpp, len(self.refs))
        self.stride = geometry.stride_of(width, bpp)

    @property
    def size(self) -> int:
        """Bytes up to the end of the last line."""
        return self.data_ofs + self.stride * self.shape.height

    def stored(self) -> bytes:
        """The text of its file in the store."""
        backing, shape = self.backing, self.shape
        return pack_buffer(
            StoredBuffer(
                self.cookie,
                shape.width,
                shape.height,
                shape.bpp,
                self.stride,
                self.buffer_sz,
                self.data_ofs,
                backing.strategy if backing else "",
                backing.allocator if backing else "",
                backing.why[:1000] if backing else "",
                backing.number if backing else -1,
                {name: text[:1000] for name, text in self.refused.items()},
            ),
            self.refs,
        )

    def status(self, formats: tuple[str, ...]) -> BufferStatus:
        backing = self.backing
        return BufferStatus(
            self.cookie,
            self.shape.width,
            self.shape.height,
            formats,
            self.stride,
            len(self.refs),
            backing.strategy if backing else "",
            backing.allocator if backing else "",
            (backing.why if backing else "waits for FB_ATTACH")[:1000],
            -1 if backing is None or backing.dmabuf is None else backing.dmabuf,
        )


class DisplayBuffers:
    """Owns the backings of a device until close(). ``factory`` may wait for the compositor.

    What is to be answered ``by`` a loop time waits no longer.
    """

    def __init__(
        self,
        grants: Gntdev,
        quota: Quota,
        domain: str,
        releases: Releases,
        store: FdStore,
        factory: Callable[[float], Awaitable[BackingFactory]],
    ) -> None:
        self._grants = grants
        self._quota = quota
        self._domain = domain
        self._releases = releases
        self._store = store
        self._factory = factory
        self._quiet = RateLimit()
        self._all: dict[int, DisplayBuffer] = {}

    def __iter__(self) -> Iterator[DisplayBuffer]:
        return iter(list(self._all.values()))

    def get(self, cookie: int) -> DisplayBuffer:
        """RequestError(ENOENT) if there is none."""
        buffer = self._all.get(cookie)
        if buffer is None:
            raise RequestError(errno.ENOENT, "dbuf_cookie", cookie, "no such display buffer")
        return buffer

    def has(self, buffer: DisplayBuffer) -> bool:
        """Whether it was not destroyed meanwhile."""
        return self._all.get(buffer.cookie) is buffer

    # -- making

    async def create(self, request: wire.DbufCreate, by: float) -> None:
        geometry.check_dbuf(request, self._quota)
        if request.dbuf_cookie in self._all:
            raise RequestError(errno.EEXIST, "dbuf_cookie", request.dbuf_cookie, "a display buffer has it")
        pages = geometry.pages_of(request.buffer_sz)
        self._check_quota(pages)
        refs = directory.read_directory(self._grants.read_page, request.gref_directory, pages)
        buffer = DisplayBuffer(
            request.dbuf_cookie,
            next(_number),
            Shape(0, 0, 0, pages),
            request.buffer_sz,
            request.data_ofs,
            refs,
        )
        self._all[buffer.cookie] = buffer
        try:
            if request.width:
                buffer.set_geometry(request.width, request.height, request.bpp)
                await self.back(buffer, by)
            else:
                self.keep(buffer)
        except BaseException:
            if self.has(buffer):
                del self._all[buffer.cookie]
            raise

    def _check_quota(self, pages: int) -> None:
        """Pages that a compositor still holds count, whichever connection they were of."""
        held = sum(len(buffer.refs) for buffer in self._all.values()) + self._releases.pages
        if len(self._all) + len(self._releases) >= self._quota.buffers:
            raise RequestError(errno.ENOSPC, "buffers", len(self._all), f"quota is {self._quota.buffers}")
        if held + pages > self._quota.pages:
            raise RequestError(errno.ENOSPC, "pages", pages, f"{held} held, the quota is {self._quota.pages}")

    async def back(self, buffer: DisplayBuffer, by: float = limits.NO_DEADLINE) -> None:
        """Make its backing by the next strategy; RequestError if none is left or it is gone.

        OSError if it can't be stored; then it has none.
        """
        factory = await self._factory(by)
        if not self.has(buffer):
            raise RequestError(errno.ENOENT, "dbuf_cookie", buffer.cookie, "destroyed meanwhile")
        try:
            buffer.backing = factory.make(buffer.refs, buffer.shape, buffer.size, buffer.refused)
        except NoStrategy as error:
            raise RequestError(errno.EIO, "dbuf_cookie", buffer.cookie, f"no buffer strategy works: {error}") from error
        try:
            self.keep(buffer)
        except OSError:
            backing, buffer.backing = buffer.backing, None
            self._releases.add(backing, len(buffer.refs))
            raise
        self._log(
            logging.INFO,
            "display buffer mapped",
            cookie=buffer.cookie,
            size=f"{buffer.shape.width}x{buffer.shape.height}",
            pages=len(buffer.refs),
            strategy=buffer.backing.strategy,
            allocator=buffer.backing.allocator,
            why=buffer.backing.why,
        )

    async def refuse(self, buffer: DisplayBuffer, error: Exception) -> None:
        """The compositor doesn't take its backing: give that up, the next strategy's turn comes."""
        backing, buffer.backing = buffer.backing, None
        if backing is None:
            return
        buffer.refused[backing.strategy] = str(error)
        self._log(
            logging.WARNING,
            "buffer strategy refused by the compositor",
            cookie=buffer.cookie,
            strategy=backing.strategy,
            reason=error,
            own_stride=getattr(getattr(backing, "bo", None), "stride", buffer.stride),
        )
        self._forget(buffer)
        release = self._releases.add(backing, len(buffer.refs))
        self.keep(buffer)  # without a backing: a successor would miss its file
        await self._releases.wait([release], limits.REPLACE)

    # -- giving back

    def take(self, cookie: int) -> DisplayBuffer:
        """Out of the table, for give_back(); RequestError(ENOENT) if there is none."""
        buffer = self.get(cookie)
        del self._all[cookie]
        return buffer

    async def give_back(self, buffer: DisplayBuffer, by: float) -> None:
        """The framebuffers on it are gone. RequestError(ETIMEDOUT) if the compositor holds on."""
        self._forget(buffer)
        backing, buffer.backing = buffer.backing, None
        if backing is None:
            return
        release = self._releases.add(backing, len(buffer.refs))
        seconds = limits.left(limits.DESTROY, by, asyncio.get_running_loop().time())
        if not await self._releases.wait([release], seconds):
            raise RequestError(
                errno.ETIMEDOUT,
                "dbuf_cookie",
                buffer.cookie,
                f"the compositor still holds the buffer after {seconds:.1f} s",
            )

    async def close(self) -> bool:
        """Give everything back; True once no page of the device is mapped any more."""
        releases = []
        for buffer in self:
            del self._all[buffer.cookie]
            self._forget(buffer)
            if buffer.backing:
                releases.append(self._releases.add(buffer.backing, len(buffer.refs)))
                buffer.backing = None
        return await self._releases.wait(releases, limits.DISCONNECT)

    def abandon(self) -> None:
        """Close all at once, whatever the compositor holds: the kernel goes on alone."""
        for buffer in self:
            if buffer.backing:
                with contextlib.suppress(OSError):
                    buffer.backing.release()
                buffer.backing.close()
        self._all.clear()

    # -- what outlives the process

    def keep(self, buffer: DisplayBuffer) -> None:
        """Let the store have the buffer as it is now; OSError leaves what it has."""
        fd = os.memfd_create("xen-dmabuf-buffer", os.MFD_CLOEXEC)
        try:
            os.write(fd, buffer.stored())
            self._forget(buffer)
            backing = buffer.backing
            if backing and backing.dmabuf is not None:
                self._store.add(_store_name(buffer.number, "gntdev"), backing.gntdev.fd)
                self._store.add(_store_name(buffer.number, "dmabuf"), backing.dmabuf)
            self._store.add(_store_name(buffer.number, "buffer"), fd)
        finally:
            os.close(fd)

    def _forget(self, buffer: DisplayBuffer) -> None:
        for what in _FILES:
            self._store.remove(_store_name(buffer.number, what))

    def restore(self, number: int, files: dict[str, int]) -> DisplayBuffer:
        """A buffer out of the store; takes its files. StateError or OSError: nothing is taken."""
        text = files.pop(_store_name(number, "buffer"), -1)
        if text < 0:
            raise StateError(f"lacks the file of display buffer {number}")
        try:
            stored, refs = read_buffer(os.pread(text, min(os.fstat(text).st_size, _LONGEST), 0))
        finally:
            os.close(text)
        if stored.cookie in self._all:
            raise StateError(f"names display buffer {stored.cookie:#x} twice")
        shape = Shape(stored.width, stored.height, stored.bpp, len(refs))
        buffer = DisplayBuffer(stored.cookie, number, shape, stored.buffer_sz, stored.data_ofs, refs)
        buffer.stride, buffer.refused = stored.stride, dict(stored.refused)
        self._all[stored.cookie] = buffer
        if stored.strategy:
            buffer.backing = self._restore_backing(buffer, stored, files)
        global _number  # those of new buffers must not be those of old ones
        _number = itertools.count(max(next(_number), number + 1))
        return buffer

    def _restore_backing(self, buffer: DisplayBuffer, stored: StoredBuffer, files: dict[str, int]) -> Backing:
        domid = self._grants.domid
        if stored.strategy == "copy":
            factory = BackingFactory(domid, _NO_GPU, -1, "")
            backing = make_backing(factory, "copy", buffer.refs, buffer.shape, buffer.size)
            backing.why = stored.why
            return backing
        names = [_store_name(buffer.number, what) for what in ("gntdev", "dmabuf")]
        if not all(name in files for name in names) or stored.number < 3:
            raise StateError(f"lacks a file of display buffer {buffer.number}")
        if os.path.exists(f"/proc/self/fd/{stored.number}"):
            raise StateError(f"display buffer {buffer.number}: its number {stored.number} is taken")
        os.dup2(files[names[1]], stored.number, inheritable=False)
        os.close(files.pop(names[1]))
        gntdev = Gntdev(domid, files.pop(names[0]))
        if stored.strategy == "map":
            return MapBacking.adopt(gntdev, stored.number, stored.allocator, stored.why)
        return ExportBacking(gntdev, stored.number, stored.why)

    def _log(self, level: int, text: str, **values: object) -> None:
        """What a DomU can cause is logged within limits: Dom0's journal isn't its."""
        if self._quiet.allow(asyncio.get_running_loop().time()):
            log.log(level, text, extra=fields(domain=self._domain, **values))
