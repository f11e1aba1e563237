# SPDX-License-Identifier: MIT
"""The framebuffers of one device: wl_buffers over its display buffers, imported and dropped.

Asyncio thread only. A framebuffer may be detached, and its buffer destroyed, at every await.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .. import limits
from ..config import Quota
from ..displif import fourcc, geometry, wire
from ..errors import ConnectionLost, ImportRefused, RequestError
from ..log import RateLimit, fields
from .backing import Backing, CopyBacking
from .displaybuffers import DisplayBuffer, DisplayBuffers
from .scene import Scene
from .state import StoredFramebuffer

if TYPE_CHECKING:
    from .compositor import Compositor
    from .image import Image

log = logging.getLogger(__name__)

_SUSPECT = 1.0  # seconds after its first commit in which a lost connection may be a buffer's fault
_LOSSES = 3  # of them are too many: its strategy counts as refused


class Framebuffer:
    """``image`` is None until the compositor has imported it, and without a compositor."""

    def __init__(self, cookie: int, buffer: DisplayBuffer, width: int, height: int, pixel_format: int) -> None:
        self.cookie = cookie
        self.buffer = buffer
        self.width = width
        self.height = height
        self.pixel_format = pixel_format
        self.image: Image | None = None

    def stored(self) -> StoredFramebuffer:
        return StoredFramebuffer(self.cookie, self.buffer.cookie, self.width, self.height, self.pixel_format)


def _lines(buffer: DisplayBuffer, crop: geometry.Crop) -> tuple[int, int]:
    """First byte and length of a buffer's lines that are shown."""
    return buffer.data_ofs + crop.y * buffer.stride, crop.height * buffer.stride


class Framebuffers:
    """Owns the wl_buffers. ``on_drop(framebuffer)`` is called before one goes,
    ``on_late(framebuffer)`` when its wl_buffer came after FB_ATTACH was answered."""

    def __init__(
        self,
        buffers: DisplayBuffers,
        scene: Scene,
        quota: Quota,
        on_drop: Callable[[Framebuffer], None],
        on_late: Callable[[Framebuffer], None],
        see_through: Callable[[], bool],
    ) -> None:
        """``see_through()``: whether what is behind a window may shine through its picture."""
        self._buffers = buffers
        self._scene = scene
        self._quota = quota
        self._on_drop = on_drop
        self._on_late = on_late
        self._see_through = see_through
        self._imports: set[asyncio.Task[None]] = set()
        self._quiet = RateLimit()
        self._all: dict[int, Framebuffer] = {}

    def __iter__(self) -> Iterator[Framebuffer]:
        return iter(list(self._all.values()))

    def find(self, cookie: int) -> Framebuffer | None:
        return self._all.get(cookie)

    def get(self, cookie: int) -> Framebuffer:
        """RequestError(ENOENT) if there is none."""
        framebuffer = self.find(cookie)
        if framebuffer is None:
            raise RequestError(errno.ENOENT, "fb_cookie", cookie, "no such framebuffer")
        return framebuffer

    def on(self, buffer: DisplayBuffer) -> list[Framebuffer]:
        """Those over a display buffer."""
        return [framebuffer for framebuffer in self if framebuffer.buffer is buffer]

    def formats(self, buffer: DisplayBuffer) -> tuple[str, ...]:
        return tuple(fourcc.name(framebuffer.pixel_format) for framebuffer in self.on(buffer))

    # -- attaching

    async def attach(self, request: wire.FbAttach, by: float) -> None:
        """Answered ``by`` this loop time; what comes later is shown later."""
        if not request.fb_cookie:
            raise RequestError(errno.EINVAL, "fb_cookie", 0, "0 is the invalid cookie")
        if request.fb_cookie in self._all:
            raise RequestError(errno.EEXIST, "fb_cookie", request.fb_cookie, "a framebuffer has it")
        buffer = self._buffers.get(request.dbuf_cookie)
        if len(self._all) >= 2 * self._quota.buffers:
            raise RequestError(errno.ENOSPC, "fb_cookie", request.fb_cookie, f"quota is {2 * self._quota.buffers}")
        self._check(request, buffer)
        framebuffer = Framebuffer(request.fb_cookie, buffer, request.width, request.height, request.pixel_format)
        self._all[framebuffer.cookie] = framebuffer
        try:
            await self._import(framebuffer, by)
        except (RequestError, OSError):
            self.drop(framebuffer)
            raise

    def _check(self, request: wire.FbAttach, buffer: DisplayBuffer) -> None:
        geometry.check_size("fb_attach", request.width, request.height, self._quota)
        bits = geometry.check_format(request.pixel_format)
        if not buffer.shape.width:
            stride = geometry.stride_of(request.width, bits)
            geometry.check_fits("buffer_sz", stride, request.height, buffer.data_ofs, buffer.buffer_sz)
            buffer.set_geometry(request.width, request.height, bits)
            return
        shape = buffer.shape
        if bits != shape.bpp:
            raise RequestError(
                errno.EINVAL,
                "pixel_format",
                fourcc.name(request.pixel_format),
                f"{bits} bits on a buffer of {shape.bpp}",
            )
        for name, value, limit in (
            ("fb_attach.width", request.width, shape.width),
            ("fb_attach.height", request.height, shape.height),
        ):
            if value > limit:
                raise RequestError(errno.EINVAL, name, value, f"the buffer has {limit}")

    async def _import(self, framebuffer: Framebuffer, by: float) -> None:
        """Wait for the wl_buffer as long as the frontend can wait, and leave the rest to a task."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._materialise(framebuffer))
        self._imports.add(task)
        task.add_done_callback(self._import_done)
        await asyncio.wait({task}, timeout=limits.left(limits.ATTACH, by, loop.time()))
        if task.done():
            if not task.cancelled():
                task.result()
            return
        self._log(logging.WARNING, "compositor is slow to import", cookie=framebuffer.cookie)
        task.add_done_callback(lambda done: self._imported_late(framebuffer, done))

    def _import_done(self, task: asyncio.Task[None]) -> None:
        self._imports.discard(task)
        if not task.cancelled():
            task.exception()  # who asked for it may be gone, as its connector is: no traceback for that

    def _imported_late(self, framebuffer: Framebuffer, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error:
            self._log(logging.ERROR, "framebuffer stays dark", cookie=framebuffer.cookie, reason=error)
        else:
            self._on_late(framebuffer)

    async def _materialise(self, framebuffer: Framebuffer) -> None:
        """Make the wl_buffer; a refused import leads to the next strategy."""
        buffer = framebuffer.buffer
        async with buffer.importing:
            while framebuffer.image is None and self._attached(framebuffer):
                if buffer.losses >= _LOSSES:
                    buffer.losses = 0
                    await self._refused(
                        buffer, ImportRefused(f"ended the connection {_LOSSES} times when it was shown")
                    )
                if buffer.backing is None:
                    await self._buffers.back(buffer)
                compositor, backing = self._scene.compositor, buffer.backing
                if compositor is None or backing is None:
                    return  # restore() does it when there is one
                caches = self._scene.caches
                if caches and caches.needed:  # what is restored is shown without another flip
                    await caches.write_back(backing)
                    if buffer.backing is not backing:  # destroyed meanwhile
                        continue
                try:
                    image = await self._image(compositor, framebuffer, backing)
                except ConnectionLost:
                    return
                except ImportRefused as error:
                    if self._attached(framebuffer) and buffer.backing is backing:
                        await self._refused(buffer, error)
                    continue
                if self._attached(framebuffer) and self._scene.compositor is compositor:
                    framebuffer.image = image
                else:
                    image.destroy()
                    self._scene.flush()

    def _attached(self, framebuffer: Framebuffer) -> bool:
        return self._all.get(framebuffer.cookie) is framebuffer

    async def _refused(self, buffer: DisplayBuffer, error: ImportRefused) -> None:
        if any(other.image for other in self.on(buffer)):  # it is being shown
            raise RequestError(errno.EINVAL, "pixel_format", str(error), "refused") from error
        await self._buffers.refuse(buffer, error)

    async def _image(self, compositor: Compositor, framebuffer: Framebuffer, backing: Backing) -> Image:
        buffer = framebuffer.buffer
        size = (framebuffer.width, framebuffer.height)
        takes = compositor.takes_shm if isinstance(backing, CopyBacking) else compositor.takes_dmabuf
        layout = (buffer.stride, buffer.data_ofs, self._shown_format(framebuffer, takes))
        if isinstance(backing, CopyBacking):
            image = compositor.share_memory(backing.pool, backing.size, *size, *layout)
            image.fill = functools.partial(self._copy, buffer, backing)
            return image
        assert backing.dmabuf is not None
        return await compositor.import_dmabuf(backing.dmabuf, *size, *layout)

    def _shown_format(self, framebuffer: Framebuffer, takes: Callable[[int], bool]) -> int:
        """The same without alpha where nothing may shine through: wlroots blends whatever the opaque region says."""
        own = framebuffer.pixel_format
        twin = fourcc.OPAQUE.get(own, own)
        return own if self._see_through() or not takes(twin) else twin

    def copied(self, framebuffer: Framebuffer, crop: geometry.Crop) -> tuple[memoryview, memoryview] | None:
        """Where the lines that are shown are copied to and from; None: they aren't copied."""
        buffer = framebuffer.buffer
        if not isinstance(buffer.backing, CopyBacking):
            return None
        return buffer.backing.views(*_lines(buffer, crop))

    def _copy(self, buffer: DisplayBuffer, backing: CopyBacking, crop: geometry.Crop) -> None:
        """Copy the lines that are shown."""
        self._scene.pixel_bytes_copied += backing.copy(*_lines(buffer, crop))

    # -- detaching

    def detach(self, cookie: int) -> None:
        self.drop(self.get(cookie))

    def drop(self, framebuffer: Framebuffer) -> None:
        """Forget a framebuffer and its wl_buffer; whoever shows it hides it first. Idempotent."""
        if self._all.get(framebuffer.cookie) is not framebuffer:
            return
        self._on_drop(framebuffer)
        del self._all[framebuffer.cookie]
        if framebuffer.image:
            framebuffer.buffer.was_read |= framebuffer.image.dmabuf >= 0 and framebuffer.image.shown_at is not None
            framebuffer.image.destroy()
            framebuffer.image = None
        self._scene.flush()

    def close(self) -> None:
        for task in list(self._imports):
            task.cancel()
        for framebuffer in self:
            self.drop(framebuffer)

    # -- the compositor's coming and going, and another process's

    def suspect(self) -> None:
        """The connection ended: what was shown for the first time a moment ago may be why."""
        now = asyncio.get_running_loop().time()
        for framebuffer in self:
            image, buffer = framebuffer.image, framebuffer.buffer
            if image and image.users and image.shown_at is not None:
                buffer.suspected = now - image.shown_at < _SUSPECT
                buffer.losses = buffer.losses if buffer.suspected else 0

    def blame(self) -> None:
        """The compositor is there again at once: it ended the connection, and didn't end itself."""
        for buffer in self._buffers:
            buffer.losses += buffer.suspected
            buffer.suspected = False

    def compositor_lost(self) -> None:
        """Forget every wl_buffer; the DomU's pages stay mapped and backed."""
        for framebuffer in self:
            if framebuffer.image:
                framebuffer.image.destroy()
                framebuffer.image = None

    async def restore(self) -> None:
        """Make all wl_buffers anew."""
        for framebuffer in self:
            try:
                await self._materialise(framebuffer)
            except (RequestError, OSError) as error:
                self._log(
                    logging.ERROR,
                    "framebuffer can't be shown in the new compositor",
                    cookie=framebuffer.cookie,
                    reason=error,
                )

    def adopt(self, stored: StoredFramebuffer) -> None:
        """What another process had; restore() makes its wl_buffer. RequestError: it can't be."""
        buffer = self._buffers.get(stored.buffer)
        values = (stored.width, stored.height, stored.pixel_format)
        self._check(wire.FbAttach(stored.buffer, stored.cookie, *values), buffer)
        self._all[stored.cookie] = Framebuffer(stored.cookie, buffer, *values)

    def _log(self, level: int, text: str, **values: object) -> None:
        """What a DomU can cause is logged within limits: Dom0's journal isn't its."""
        if self._quiet.allow(asyncio.get_running_loop().time()):
            log.log(level, text, extra=fields(domain=self._scene.domain, **values))
