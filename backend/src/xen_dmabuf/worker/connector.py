# SPDX-License-Identifier: MIT
"""One connector of a DomU: its event channels, its requests, its window.

A task takes requests from the ring in order and answers each. A flip is answered by an event on the
event page once the window says what became of it (flips.py). All in the asyncio thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from .. import limits
from ..displif import directory, edid, geometry, wire
from ..displif.ring import RingError
from ..displif.spec import ConnectorSpec
from ..errors import ConnectionLost, ImportRefused, RequestError
from ..link.messages import ConnectorStatus
from ..log import RateLimit, fields
from ..pump import loop
from ..xen.gntdev import Gntdev, GrantMapping
from .backing import CopyBacking
from .flips import Counters, Flip, Flips
from .framebuffers import Framebuffer, Framebuffers
from .ports import Ports
from .refresher import Refresher
from .scene import Scene
from .state import StoredConnector
from .statefile import Journal

if TYPE_CHECKING:
    import mmap

    from ..displif.geometry import Crop
    from .caches import Caches
    from .image import Image
    from .lane import Lane
    from .picture import Picture
    from .window import Window

log = logging.getLogger(__name__)

# what a request that was begun and not answered finds done when it is begun again
_DONE_ALREADY = {
    wire.OP_DBUF_CREATE: errno.EEXIST,
    wire.OP_DBUF_DESTROY: errno.ENOENT,
    wire.OP_FB_ATTACH: errno.EEXIST,
    wire.OP_FB_DETACH: errno.ENOENT,
}

Operate = Callable[[wire.Request, float], Awaitable[None]]


class Configuration:
    """What SET_CONFIG asked for."""

    def __init__(self, request: wire.SetConfig, width: int, height: int) -> None:
        """``width``, ``height``: the connector's, in pixels."""
        self.request = request
        self._connector = (width, height)
        self._crops: dict[tuple[int, int], geometry.Crop] = {}

    def crop(self, framebuffer: Framebuffer) -> geometry.Crop:
        """What is shown of a framebuffer that was flipped to: the same object for the same size."""
        size = (framebuffer.width, framebuffer.height)
        crop = self._crops.get(size)
        if crop is None:
            crop = geometry.crop_of_flip(self.request, *size, *self._connector)
            self._crops = {size: crop}  # a DomU may name many sizes
        return crop


class Connector:
    """Owns its pages, ports and window from open() or adopt() to close()."""

    def __init__(
        self,
        spec: ConnectorSpec,
        grants: Gntdev,
        ports: Ports,
        scene: Scene,
        framebuffers: Framebuffers,
        slot: int,
        journal: Journal,
        label: str,
        *,
        operate: Operate,
        on_change: Callable[[], None],
        on_broken: Callable[[str], None],
    ) -> None:
        """``label``: its name in titles; ``operate`` does what isn't connector specific, by a
        loop time; ``on_change``: store the table."""
        self.spec = spec
        self.slot = slot
        self.label = label
        self.window: Window | None = None
        self.configuration: Configuration | None = None
        self._settings = scene.config.connector_for(scene.domain, spec.name)
        self._grants = grants
        self._ports = ports
        self._scene = scene
        self._framebuffers = framebuffers
        self._operate = operate
        self._on_change = on_change
        self._on_broken = on_broken
        self._stack = contextlib.ExitStack()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._waits = False  # the task, for the frontend
        self._replays = 0  # requests that another process left in the ring
        self._by = limits.NO_DEADLINE  # loop time by which the request that is served is to be answered
        self._lane: Lane | None = None
        self._loop = asyncio.get_running_loop()
        self._quiet = RateLimit()
        self._refresher = Refresher(self._settings.refresh_per_second, self._refresh)
        self._fields = {"domid": grants.domid, "connector": spec.name}
        self.flips = Flips(
            journal,
            self._quiet,
            self._fields,
            notify=self._notify,
            settled=self._lend,
        )
        self._own: dict[int, Callable[..., Awaitable[int | None]]] = {
            wire.OP_SET_CONFIG: self._set_config,
            wire.OP_PG_FLIP: self._pg_flip,
            wire.OP_GET_EDID: self._get_edid,
        }

    @property
    def see_through(self) -> bool:
        """Whether what is behind its window may shine through."""
        return self._settings.alpha

    @property
    def _caches(self) -> Caches | None:
        """What has to write back before each flip; None: nobody has to, or the guest has done it."""
        return None if self.spec.written_back else self._needed_caches

    @property
    def _needed_caches(self) -> Caches | None:
        """The same for what the guest has told nobody of, and so has not written back either."""
        caches = self._scene.caches
        return caches if caches and caches.needed else None

    @property
    def counters(self) -> Counters:
        self.reclaim()
        return self.flips.counters

    # -- opening and closing

    def open(self) -> None:
        """Map the pages and bind the channels; OSError leaves nothing behind."""
        try:
            self._attach()
            self.flips.request_port = self._bind(self.spec.req_port, self._woken)
            self.flips.event_port = self._bind(self.spec.evt_port, lambda: None)
        except OSError:
            self._stack.close()
            raise
        self.flips.save()
        self._describe()
        if self.spec.warning and self._quiet.allow(self._loop.time()):
            log.warning("connector may stay black", extra=fields(**self._fields, reason=self.spec.warning))

    def adopt(self, stored: StoredConnector) -> None:
        """Go on where another process ended; OSError or StateError leaves nothing behind."""
        self.flips.load(self.spec.name)
        if stored.config:
            self.configuration = self._configured(wire.SetConfig(*stored.config))
        try:
            self._attach(loaded=True)
            for port, callback in (
                (stored.req_port, self._woken),
                (stored.evt_port, lambda: None),
            ):
                self._ports.adopt(port, callback)
                self._stack.callback(self._ports.unbind, port)
            self.flips.request_port, self.flips.event_port = stored.req_port, stored.evt_port
        except OSError:
            self._stack.close()
            raise
        self._describe()

    def _attach(self, *, loaded: bool = False) -> None:
        self.flips.attach(self._page(self.spec.req_ref), self._page(self.spec.evt_ref), loaded=loaded)
        self._stack.callback(self.flips.detach)

    def _describe(self) -> None:
        flips = self.flips
        flips.journal.describe(self.spec.req_ref, self.spec.evt_ref, flips.request_port, flips.event_port)

    def start(self) -> None:
        """Begin to answer."""
        if self.flips.tell_again():
            self._replays = self.flips.requests.pending
            self._by = self._loop.time() + limits.REPLAY if self._replays else limits.NO_DEADLINE
        self._wake.set()
        self._task = self._loop.create_task(self._run())
        if self.configuration:
            self._refresher.start()
        self.open_window()

    def _page(self, ref: int) -> mmap.mmap:
        page: GrantMapping = self._grants.map([ref], writable=True)
        self._stack.callback(page.close)
        return page.map

    def _bind(self, port: int, callback: Callable[[], None]) -> int:
        local = self._ports.bind(port, callback)
        self._stack.callback(self._ports.unbind, local)
        return local

    async def stop(self) -> None:
        """Stop answering, and show nothing of the guest; idempotent."""
        self._waits = False
        self.reclaim()
        task, self._task = self._task, None
        if task and task is not asyncio.current_task():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._refresher.stop()
        self.flips.forget()
        if self.window:
            self.window.blank()

    async def close(self) -> None:
        """stop(), and give pages, ports and window back; idempotent."""
        await self.stop()
        self.abandon()

    async def reach_screen(self, by: float) -> None:
        """Wait, within limits.PRESENTED and to a loop time, until what isn't shown any more isn't on the screen."""
        self.reclaim()
        if self.window:
            await self.window.picture.reach_screen(limits.left(limits.PRESENTED, by, self._loop.time()))

    def abandon(self) -> None:
        """close(), for a connector that hasn't begun to answer."""
        self._refresher.stop()
        self.close_window(answer=False)
        self._stack.close()
        self.flips.journal.close()

    def stored(self) -> StoredConnector:
        configuration, flips = self.configuration, self.flips
        config = vars(configuration.request).values() if configuration else ()
        return StoredConnector(self.spec, self.slot, flips.request_port, flips.event_port, tuple(config))

    # -- requests

    def _woken(self) -> None:
        """The frontend has notified. A flip that nothing has to be waited for is served at once: a
        task's turn costs more than the flip."""
        self.reclaim()
        try:
            if not (self._waits and self._serve_flip()):
                self._wake.set()
        except Exception as error:
            self._failed(error)
            if self._task:
                self._task.cancel()

    async def _run(self) -> None:
        try:
            while True:
                self._waits = not self._wake.is_set()
                await self._wake.wait()
                self._waits = False
                self._wake.clear()
                for number, packet in enumerate(self.flips.requests.take()):
                    if number:
                        await asyncio.sleep(0)  # others have their turn, however many there are
                    await self._serve(wire.parse_request(packet))
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """The frontend can't be served any more. A bug of ours must not look like a silent frontend."""
        self._waits = False
        if isinstance(error, RingError):
            self.flips.counters.protocol_errors += 1
        elif not isinstance(error, OSError):
            log.error("internal error", exc_info=error, extra=fields(**self._fields))
            return self._broken(f"internal error: {error}")
        self._broken(str(error))

    def _broken(self, reason: str) -> None:
        self._on_broken(f"connector {self.spec.name}: {reason}")

    def _serve_flip(self) -> bool:
        """Serve the only request, if it is a flip that can be shown at once; False: nothing was done."""
        requests = self.flips.requests
        if self.flips.open or self.flips.replays or self._caches:
            return False
        packet = requests.peek()
        if packet is None:
            return False
        identifier, operation = wire.HEADER.unpack_from(packet)
        if operation != wire.OP_PG_FLIP:
            return False
        (cookie,) = wire.FLIP.unpack_from(packet, wire.HEADER.size)
        framebuffer = self._framebuffers.find(cookie)
        if framebuffer is None:
            return False
        requests.consume()
        flip = self._begin(cookie)
        response = wire.pack_response(identifier, operation, 0)
        self.flips.respond(response, functools.partial(self._present, framebuffer, flip))
        if requests.more():
            self._wake.set()
        return True

    async def _serve(self, request: wire.Request) -> None:
        status, edid_sz = await self._answer(request)
        self.flips.respond(wire.pack_response(request.id, request.operation, status, edid_sz))
        self._replays -= bool(self._replays)
        if not self._replays:
            self._by = limits.NO_DEADLINE

    async def _answer(self, request: wire.Request) -> tuple[int, int]:
        """(status, edid_sz) of the response; status is 0 or a negative errno."""
        own = self._own.get(request.operation)
        try:
            if own:
                return 0, await own(request.body) or 0
            await self._operate(request, self._by)
            return 0, 0
        except RequestError as error:
            if self.flips.replays and _DONE_ALREADY.get(request.operation) == error.errno:
                return 0, 0
            self._refused(request.operation, error)
            return -error.errno, 0
        except ConnectionLost as error:
            self._refused(request.operation, error)
            return -errno.EAGAIN, 0
        except OSError as error:
            self._refused(request.operation, error)
            return -(error.errno or errno.EIO), 0

    def _refused(self, operation: int, error: Exception) -> None:
        """Count and log a refused request; the log is rate limited per connector."""
        self.flips.counters.requests_refused += 1
        if self._quiet.allow(self._loop.time()):
            log.warning(
                "request refused",
                extra=fields(**self._fields, operation=f"0x{operation:02x}", reason=error),
            )

    async def _get_edid(self, request: wire.GetEdid) -> int:
        if request.buffer_sz < wire.EDID_MAX_SIZE:
            raise RequestError(errno.EINVAL, "buffer_sz", request.buffer_sz, f"at least {wire.EDID_MAX_SIZE}")
        if not edid.fits(self.spec.width, self.spec.height):
            # the frontend takes what XenStore says, which an EDID would overrule
            size = f"{self.spec.width}x{self.spec.height}"
            raise RequestError(
                errno.EOPNOTSUPP, "resolution", size, f"at most {edid.LARGEST} pixels each way in an EDID"
            )
        block = edid.build_edid(self.spec.width, self.spec.height, self.spec.name)
        refs = directory.read_directory(self._grants.read_page, request.gref_directory, 1)
        mapping = self._grants.map(refs, writable=True)
        try:
            mapping.map[: len(block)] = block
        finally:
            mapping.close()
        return len(block)

    async def _set_config(self, request: wire.SetConfig) -> None:
        if request.reset:
            self._refresher.stop()
            self.configuration = None
            self.flips.fb_cookie = 0
            self.blank()
            self._on_change()
            return
        framebuffer = await self._drawn(request.fb_cookie, self._caches)
        geometry.crop_of(request, *self._sizes(framebuffer))  # RequestError if nothing would be shown
        self.configuration = self._configured(request)
        self.flips.fb_cookie = request.fb_cookie
        self._on_change()
        self._present(framebuffer, None)
        self._refresher.start()

    async def _pg_flip(self, request: wire.PgFlip) -> None:
        if self.flips.begun:
            return
        if not await self.flips.turn(self._by):
            raise RequestError(errno.EBUSY, "fb_cookie", request.fb_cookie, "too many open flips")
        framebuffer = await self._drawn(request.fb_cookie, self._caches)
        flip = self._begin(request.fb_cookie)
        self.flips.save_begun()
        self._present(framebuffer, flip)

    def _begin(self, cookie: int) -> Flip:
        if self.configuration:  # Linux flips before it enables the pipe: what SET_CONFIG names is shown then
            self.flips.fb_cookie = cookie
        self._refresher.stop()
        return self.flips.begin(cookie)

    async def _drawn(self, cookie: int, caches: Caches | None) -> Framebuffer:
        """The framebuffer, with its new content where the GPU reads it; RequestError if none."""
        framebuffer = self._framebuffers.get(cookie)
        if caches:
            await caches.write_back(framebuffer.buffer.backing)
            return self._framebuffers.get(cookie)  # another connector may have detached it
        return framebuffer

    def _configured(self, request: wire.SetConfig) -> Configuration:
        return Configuration(request, self.spec.width, self.spec.height)

    def _sizes(self, framebuffer: Framebuffer) -> tuple[int, int, int, int]:
        return framebuffer.width, framebuffer.height, self.spec.width, self.spec.height

    def _notify(self, port: int) -> None:
        try:
            self._ports.notify(port)
        except OSError as error:
            self._broken(str(error))

    # -- flips in C's hands (lane.py)

    def _lend(self) -> None:
        """Let C serve what comes, if nothing is under way and it is likely to be a flip."""
        lane, configuration = self._lane, self.configuration
        if lane is None or configuration is None or self.window is None or self._caches:
            return
        flips = self.flips
        if flips.open or not self._waits or self._wake.is_set() or flips.replays:
            return
        picture = self.window.picture
        if not picture.idle:
            return
        pictures = self._pictures(configuration, picture)[: lane.ROOM]
        if not pictures:
            return
        lane.lend(
            (flips.requests.page, flips.events.page, flips.journal.memory),
            (flips.request_port, flips.event_port),
            picture.surface,
            picture.presentation.due,
            flips.numbers,
            [(f.cookie, image, self._framebuffers.copied(f, crop)) for f, image, crop in pictures],
        )

    def _pictures(self, configuration: Configuration, picture: Picture) -> list[tuple[Framebuffer, Image, Crop]]:
        """The framebuffers that C may flip to; the first one is shown now. None if that can't be one of them."""
        found = []
        for framebuffer in self._framebuffers:
            image, crop = framebuffer.image, configuration.crop(framebuffer)
            if image and picture.repeats(image, crop):
                found.append((framebuffer, image, crop))
        found.sort(key=lambda entry: not picture.shows(entry[1]))
        return found if found and picture.shows(found[0][1]) else []

    def reclaim(self) -> None:
        """Take back what C serves: whatever looks at a flip's state, or changes it, begins with this."""
        lane = self._lane
        if lane is None or not lane.reclaim():
            return
        served = lane.values
        self._scene.pixel_bytes_copied += served.copied
        flip = self.flips.go_on(served.values, served.committed, served.answered_at)
        if self.window:
            flight = lane.flight(functools.partial(self.flips.done, flip)) if flip else None
            self.window.picture.go_on(lane.shown, flight)

    def _resume(self) -> None:
        """C can't go on, and doesn't say why: whatever it may have left is done."""
        self.reclaim()
        self.flips.tell()
        if self.window:
            self.window.picture.settle()
        self._wake.set()

    # -- what is shown

    def _present(self, framebuffer: Framebuffer, flip: Flip | None) -> None:
        if self.window is None:
            self.open_window()  # it couldn't be before
        image, configuration, window = framebuffer.image, self.configuration, self.window
        done = functools.partial(self.flips.done, flip) if flip else None
        if image is None or window is None or configuration is None:
            if done:
                now = self._loop.time()
                delay = limits.left(1 / self._scene.display.hidden_flips_per_second, self._by, now)
                self._loop.call_later(delay, done, False)
            return
        # the DomU's pages aren't what the compositor reads of a copy
        copied = isinstance(framebuffer.buffer.backing, CopyBacking)
        window.present(image, configuration.crop(framebuffer), done, wait_release=not copied)

    def show_again(self, framebuffer: Framebuffer) -> None:
        """Present a framebuffer whose wl_buffer came late, if it is what should be shown."""
        self.reclaim()
        if self.flips.fb_cookie == framebuffer.cookie:
            self._present(framebuffer, None)

    # -- the window

    def open_window(self) -> None:
        """Plug the monitor in, if there is a compositor to show it."""
        compositor, display = self._scene.compositor, self._scene.display
        if compositor is None or self.window is not None or self._task is None:
            return
        from .window import Window  # with the compositor's code, which is loaded when it is needed

        size = (self.spec.width, self.spec.height)
        try:
            self.window = Window(compositor, *self._names(), size, self._settings, display.hidden_flips_per_second)
            compositor.seats.add(self.window, self._scene.inputs.at(self.spec.name))
            pump = loop.current()
            if pump:
                from .lane import Lane

                self._lane = Lane(pump, self._resume)
                compositor.at_end[self] = self.reclaim
        except (ConnectionLost, ImportRefused, OSError) as error:
            if self._quiet.allow(self._loop.time()):
                log.error("window can't be opened", extra=fields(**self._fields, reason=error))

    def _names(self) -> tuple[str, str]:
        """The window's title and app_id."""
        domain = self._scene.domain
        return f"{domain} {self.label}", f"{self._scene.display.app_id}.{domain}.{self.label}"

    def rename(self) -> None:
        """The domain is called otherwise now."""
        if self.window:
            self.window.rename(*self._names())

    def close_window(self, *, answer: bool = True) -> None:
        """Unplug it; flips still open are answered as not shown."""
        self.reclaim()
        self._lane = None
        window, self.window = self.window, None
        if window:
            if self._scene.compositor:
                self._scene.compositor.at_end.pop(self, None)
                self._scene.compositor.seats.remove(window)
            window.destroy()
        if answer:
            self.flips.give_up()
        else:
            self.flips.forget()

    def blank(self) -> None:
        """Show nothing of the guest; flips still open are answered as not shown."""
        self.reclaim()
        if self.window:
            self.window.blank()
        self.flips.give_up()

    def drop(self, framebuffer: Framebuffer) -> None:
        """Show a framebuffer no longer, which is about to go; the next flip is shown again."""
        self.reclaim()
        if self.flips.fb_cookie == framebuffer.cookie:
            self.flips.fb_cookie = 0
            self._refresher.stop()
            self.flips.save()
            self.blank()
        elif self.window and self.window.shows(framebuffer.image) and not self.window.replace(framebuffer.image):
            self.blank()

    async def _refresh(self) -> None:
        """A guest that hasn't flipped may have drawn; nothing while the last picture isn't drawn yet."""
        configuration, window = self.configuration, self.window
        if window is None or not self.flips.fb_cookie or window.waits_for_frame:
            return
        try:
            framebuffer = await self._drawn(self.flips.fb_cookie, self._needed_caches)
        except RequestError:
            return
        if configuration is self.configuration and self.flips.fb_cookie == framebuffer.cookie:
            self._present(framebuffer, None)

    def status(self) -> ConnectorStatus:
        self.reclaim()
        return ConnectorStatus(
            self.spec.index,
            self.spec.name,
            self.spec.width,
            self.spec.height,
            self.flips.fb_cookie,
            bool(self.window and self.window.hidden),
            refreshing=self._refresher.runs,
            refresh_per_second=self._settings.refresh_per_second if self._refresher.runs else 0,
            output=self.window.output if self.window else "",
            present_latency=self.window.presentation.latency if self.window else -1,
            present_missed=self.window.presentation.missed if self.window else 0,
            flips_open=len(self.flips.open),
            flip_age=self.flips.age(self.flips.flip_time),
            frame_age=self.flips.age(self.flips.frame_time),
            warning=self.spec.warning,
            **vars(self.flips.counters),
        )
