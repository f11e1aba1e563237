# SPDX-License-Identifier: MIT
"""The display buffers and framebuffers of one device: made, checked, given back.

Everything a request says is checked here or in geometry.py before it is used. Runs in the asyncio
thread; only waiting for the release of pages goes to an executor.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from . import displif, fourcc, geometry, gref
from .allocators import Shape
from .buffers import Backing, BackingFactory, CopyBacking, NoStrategy, wait_released
from .config import Quota
from .display import Compositor, ConnectionLost, Image, ImportRefused
from .errors import RequestError
from .log import RateLimit, fields

log = logging.getLogger(__name__)

_DESTROY_SECONDS = 2.2  # the frontend waits 3 s for the answer to DBUF_DESTROY
_ATTACH_SECONDS = 2.4  # and as long for FB_ATTACH
_REPLACE_SECONDS = 1.0
_GONE_SECONDS = 8.0


@dataclass
class Framebuffer:
    cookie: int
    buffer: DisplayBuffer
    width: int
    height: int
    pixel_format: int
    image: Image | None = None


@dataclass
class DisplayBuffer:
    """A display buffer of the DomU; ``backing`` is None until its geometry is known."""

    cookie: int
    shape: Shape
    stride: int
    buffer_sz: int
    data_ofs: int
    refs: list[int]
    backing: Backing | None = None
    refused: dict[str, str] = field(default_factory=dict)
    framebuffers: dict[int, Framebuffer] = field(default_factory=dict)
    importing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def set_geometry(self, width: int, height: int, bpp: int) -> None:
        self.shape = Shape(width, height, bpp, len(self.refs))
        self.stride = geometry.stride_of(width, bpp)


class BufferTable:
    """Owns the backings of a device until close().

    ``host`` gives the compositor of the moment and the backing factory (worker.Worker).
    ``on_drop(framebuffer)`` is called before a framebuffer goes, ``on_late(framebuffer)`` when its
    wl_buffer came after FB_ATTACH was answered.
    """

    def __init__(
        self,
        host,
        domid: int,
        gntdev: int,
        quota: Quota,
        domain: str,
        executor: Executor,
        on_drop: Callable[[Framebuffer], None],
        on_late: Callable[[Framebuffer], None],
    ) -> None:
        self._host = host
        self._domid = domid
        self._gntdev = gntdev
        self._quota = quota
        self._domain = domain
        self._executor = executor
        self._on_drop = on_drop
        self._on_late = on_late
        self._lock = asyncio.Lock()  # of the two tables
        self._imports: set[asyncio.Task] = set()
        self._releasing: list[tuple[Backing, int]] = []
        self._quiet = RateLimit()
        self.buffers: dict[int, DisplayBuffer] = {}
        self.framebuffers: dict[int, Framebuffer] = {}

    async def close(self) -> bool:
        """Give everything back; True once no page of the DomU is mapped any more."""
        for task in list(self._imports):
            task.cancel()
        async with self._lock:
            for framebuffer in list(self.framebuffers.values()):
                self.drop(framebuffer)
            backings = [buffer.backing for buffer in self.buffers.values() if buffer.backing]
            self.buffers.clear()
        for backing in backings:
            self._release(backing)
        backings += [backing for backing, _pages in self._releasing]
        self._releasing.clear()
        waits = [self._wait(backing, _GONE_SECONDS) for backing in backings]
        return all(await asyncio.gather(*waits))

    def framebuffer(self, cookie: int) -> Framebuffer:
        """RequestError(ENOENT) if there is none."""
        framebuffer = self.framebuffers.get(cookie)
        if framebuffer is None:
            raise RequestError(errno.ENOENT, "fb_cookie", cookie, "no such framebuffer")
        return framebuffer

    # -- display buffers

    async def create(self, request: displif.DbufCreate) -> None:
        geometry.check_dbuf(request, self._quota)
        if request.dbuf_cookie in self.buffers:
            raise RequestError(
                errno.EEXIST, "dbuf_cookie", request.dbuf_cookie, "a display buffer has it"
            )
        pages = geometry.pages_of(request.buffer_sz)
        self._check_quota(pages)
        reader = gref.page_reader(self._gntdev, self._domid)
        refs = gref.read_directory(reader, request.gref_directory, pages)
        buffer = DisplayBuffer(
            request.dbuf_cookie, Shape(0, 0, 0, pages), 0, request.buffer_sz, request.data_ofs, refs
        )
        async with self._lock:
            if request.width:
                buffer.set_geometry(request.width, request.height, request.bpp)
                await self._back(buffer)
            self.buffers[buffer.cookie] = buffer

    def _check_quota(self, pages: int) -> None:
        late = [count for _backing, count in self._releasing]
        held = sum(len(buffer.refs) for buffer in self.buffers.values()) + sum(late)
        if len(self.buffers) + len(late) >= self._quota.buffers:
            raise RequestError(
                errno.ENOSPC, "buffers", len(self.buffers), f"quota is {self._quota.buffers}"
            )
        if held + pages > self._quota.pages:
            raise RequestError(
                errno.ENOSPC, "pages", pages, f"{held} held, the quota is {self._quota.pages}"
            )

    async def _back(self, buffer: DisplayBuffer) -> None:
        factory: BackingFactory = await self._host.factory()
        size = buffer.data_ofs + buffer.stride * buffer.shape.height
        try:
            buffer.backing = factory.make(buffer.refs, buffer.shape, size, buffer.refused)
        except NoStrategy as error:
            raise RequestError(
                errno.EIO, "dbuf_cookie", buffer.cookie, f"no buffer strategy works: {error}"
            ) from error
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

    def _log(self, level: int, text: str, **values: object) -> None:
        """What a DomU can cause is logged within limits: Dom0's journal isn't its."""
        if self._quiet.allow(asyncio.get_running_loop().time()):
            log.log(level, text, extra=fields(domain=self._domain, **values))

    async def destroy(self, request: displif.DbufDestroy) -> None:
        async with self._lock:
            buffer = self.buffers.pop(request.dbuf_cookie, None)
            if buffer is None:
                raise RequestError(
                    errno.ENOENT, "dbuf_cookie", request.dbuf_cookie, "no such display buffer"
                )
            for framebuffer in list(buffer.framebuffers.values()):
                self.drop(framebuffer)
            backing = buffer.backing
        if backing is None:
            return
        self._release(backing)
        entry = (backing, len(buffer.refs))
        self._releasing.append(entry)
        if not await self._wait(backing, _DESTROY_SECONDS):
            self._host.totals.pages_late += len(buffer.refs)
            asyncio.get_running_loop().create_task(self._watch_release(entry))
            raise RequestError(
                errno.ETIMEDOUT,
                "dbuf_cookie",
                request.dbuf_cookie,
                f"the compositor still holds the buffer after {_DESTROY_SECONDS} s",
            )
        if entry in self._releasing:
            self._releasing.remove(entry)

    def _release(self, backing: Backing) -> None:
        self._host.flush()
        try:
            backing.release()
        except OSError as error:
            self._log(logging.ERROR, "release failed", reason=error)

    async def _wait(self, backing: Backing, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, wait_released, backing, seconds)
        except TimeoutError:
            return False
        except OSError as error:
            self._log(logging.ERROR, "waiting for the release failed", reason=error)
            return False
        return True

    async def _watch_release(self, entry: tuple[Backing, int]) -> None:
        """Give the quota back when the compositor has let go at last."""
        while entry in self._releasing:
            if await self._wait(entry[0], 0.5):
                if entry in self._releasing:
                    self._releasing.remove(entry)
                return
            await asyncio.sleep(0.5)

    # -- framebuffers

    async def attach(self, request: displif.FbAttach) -> None:
        if not request.fb_cookie:
            raise RequestError(errno.EINVAL, "fb_cookie", 0, "0 is the invalid cookie")
        if request.fb_cookie in self.framebuffers:
            raise RequestError(
                errno.EEXIST, "fb_cookie", request.fb_cookie, "a framebuffer has it"
            )
        buffer = self.buffers.get(request.dbuf_cookie)
        if buffer is None:
            raise RequestError(
                errno.ENOENT, "dbuf_cookie", request.dbuf_cookie, "no such display buffer"
            )
        if len(self.framebuffers) >= 2 * self._quota.buffers:
            raise RequestError(
                errno.ENOSPC, "fb_cookie", request.fb_cookie, f"quota is {2 * self._quota.buffers}"
            )
        self._check_framebuffer(request, buffer)
        framebuffer = Framebuffer(
            request.fb_cookie, buffer, request.width, request.height, request.pixel_format
        )
        async with self._lock:
            if self.buffers.get(buffer.cookie) is not buffer:
                raise RequestError(
                    errno.ENOENT, "dbuf_cookie", buffer.cookie, "destroyed meanwhile"
                )
            buffer.framebuffers[framebuffer.cookie] = framebuffer
            self.framebuffers[framebuffer.cookie] = framebuffer
        try:
            await self._import(framebuffer)
        except (RequestError, OSError):
            self.drop(framebuffer)
            raise

    async def _import(self, framebuffer: Framebuffer) -> None:
        """Wait for the wl_buffer as long as the frontend can wait, and leave the rest to a task."""
        task = asyncio.get_running_loop().create_task(self._materialise(framebuffer))
        self._imports.add(task)
        task.add_done_callback(self._imports.discard)
        await asyncio.wait({task}, timeout=_ATTACH_SECONDS)
        if task.done():
            if not task.cancelled():
                task.result()
            return
        self._log(logging.WARNING, "compositor is slow to import", cookie=framebuffer.cookie)
        task.add_done_callback(lambda done: self._imported_late(framebuffer, done))

    def _imported_late(self, framebuffer: Framebuffer, task: asyncio.Task) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error:
            self._log(
                logging.ERROR, "framebuffer stays dark", cookie=framebuffer.cookie, reason=error
            )
        else:
            self._on_late(framebuffer)

    def _check_framebuffer(self, request: displif.FbAttach, buffer: DisplayBuffer) -> None:
        geometry.check_size("fb_attach", request.width, request.height, self._quota)
        bits = geometry.check_format(request.pixel_format)
        if not buffer.shape.width:
            stride = geometry.stride_of(request.width, bits)
            geometry.check_fits(
                "buffer_sz", stride, request.height, buffer.data_ofs, buffer.buffer_sz
            )
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

    async def _materialise(self, framebuffer: Framebuffer) -> None:
        """Make the wl_buffer; a refused import leads to the next strategy.

        The framebuffer may be detached, and its buffer destroyed, at every await.
        """
        buffer = framebuffer.buffer
        async with buffer.importing:
            while framebuffer.image is None and self._attached(framebuffer):
                if buffer.backing is None:
                    await self._back(buffer)
                compositor, backing = self._host.compositor, buffer.backing
                if compositor is None or backing is None:
                    return  # restore() does it when there is one
                caches = self._host.caches
                if caches and caches.needed:  # what is restored is shown without another flip
                    await caches.write_back(backing)
                try:
                    image = await self._image(compositor, framebuffer, backing)
                except ConnectionLost:
                    return
                except ImportRefused as error:
                    if self._attached(framebuffer) and buffer.backing is backing:
                        await self._next_strategy(buffer, error)
                    continue
                if self._attached(framebuffer):
                    framebuffer.image = image
                else:
                    image.destroy()
                    self._host.flush()

    def _attached(self, framebuffer: Framebuffer) -> bool:
        return self.framebuffers.get(framebuffer.cookie) is framebuffer

    async def _next_strategy(self, buffer: DisplayBuffer, error: ImportRefused) -> None:
        assert buffer.backing is not None
        if any(other.image for other in buffer.framebuffers.values()):  # it is being shown
            raise RequestError(errno.EINVAL, "pixel_format", str(error), "refused") from error
        backing, buffer.backing = buffer.backing, None
        buffer.refused[backing.strategy] = str(error)
        self._log(
            logging.WARNING,
            "buffer strategy refused by the compositor",
            cookie=buffer.cookie,
            strategy=backing.strategy,
            reason=error,
            own_stride=getattr(getattr(backing, "bo", None), "stride", buffer.stride),
        )
        self._release(backing)
        await self._wait(backing, _REPLACE_SECONDS)

    async def _image(
        self, compositor: Compositor, framebuffer: Framebuffer, backing: Backing
    ) -> Image:
        buffer = framebuffer.buffer
        size = (framebuffer.width, framebuffer.height)
        layout = (buffer.stride, buffer.data_ofs, framebuffer.pixel_format)
        if isinstance(backing, CopyBacking):
            return compositor.share_memory(backing.pool, backing.size, *size, *layout)
        assert backing.dmabuf is not None
        return await compositor.import_dmabuf(backing.dmabuf, *size, *layout)

    async def detach(self, request: displif.FbDetach) -> None:
        async with self._lock:
            framebuffer = self.framebuffers.get(request.fb_cookie)
            if framebuffer is None:
                raise RequestError(
                    errno.ENOENT, "fb_cookie", request.fb_cookie, "no such framebuffer"
                )
            self.drop(framebuffer)

    def drop(self, framebuffer: Framebuffer) -> None:
        """Forget a framebuffer and its wl_buffer; whoever shows it hides it first."""
        self._on_drop(framebuffer)
        if framebuffer.image:
            framebuffer.image.destroy()
        self._host.flush()
        framebuffer.buffer.framebuffers.pop(framebuffer.cookie, None)
        self.framebuffers.pop(framebuffer.cookie, None)

    # -- the compositor's coming and going

    def compositor_lost(self) -> None:
        """Forget every wl_buffer; the DomU's pages stay mapped and backed."""
        for framebuffer in self.framebuffers.values():
            if framebuffer.image:
                framebuffer.image.destroy()
                framebuffer.image = None

    async def restore(self) -> None:
        """Make all wl_buffers anew."""
        for framebuffer in list(self.framebuffers.values()):
            try:
                await self._materialise(framebuffer)
            except (RequestError, OSError) as error:
                self._log(
                    logging.ERROR,
                    "framebuffer can't be shown in the new compositor",
                    cookie=framebuffer.cookie,
                    reason=error,
                )

    def status(self) -> dict:
        return {
            "buffers": [_buffer_status(buffer) for buffer in self.buffers.values()],
            "releasing_pages": sum(pages for _backing, pages in self._releasing),
        }


def _buffer_status(buffer: DisplayBuffer) -> dict:
    backing = buffer.backing
    return {
        "cookie": buffer.cookie,
        "width": buffer.shape.width,
        "height": buffer.shape.height,
        "formats": [fourcc.name(fb.pixel_format) for fb in buffer.framebuffers.values()],
        "stride": buffer.stride,
        "pages": len(buffer.refs),
        "strategy": backing.strategy if backing else "",
        "allocator": backing.allocator if backing else "",
        "fd": backing.dmabuf if backing else None,
        "why": backing.why if backing else "waits for FB_ATTACH",
    }
