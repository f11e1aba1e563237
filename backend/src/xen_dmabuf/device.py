# SPDX-License-Identifier: MIT
"""One vdispl device of a DomU: the seven operations of displif.h, and what each connector shows.

Buffers and framebuffers belong to the device (buffertable.py), windows to its connectors. Runs in
the asyncio thread.
"""

from __future__ import annotations

import asyncio
import errno
from concurrent.futures import Executor
from dataclasses import dataclass

from . import _sys, displif, geometry, gref
from .buffers import CopyBacking
from .buffertable import BufferTable, Framebuffer
from .channels import EventChannels
from .config import Quota
from .connector import Configuration, Connector
from .display import Compositor, ConnectionLost
from .errors import RequestError
from .spec import ConnectorSpec
from .window import Window


@dataclass
class Presentation:
    """How windows look: from the configuration and the domain's name."""

    domain: str
    app_id: str
    scale: str
    hidden_rate: int


@dataclass
class Totals:
    """Counters over the life of the worker."""

    pixel_bytes_copied: int = 0
    pages_late: int = 0


class Device:
    """The state between connect and disconnect of one frontend.

    ``host`` gives the compositor of the moment, the backing factory and what is known of the GPU's
    caches (worker.Worker).
    """

    def __init__(
        self,
        host,
        domid: int,
        gntdev: int,
        channels: EventChannels,
        quota: Quota,
        presentation: Presentation,
        executor: Executor,
        on_broken,
    ) -> None:
        self._host = host
        self._domid = domid
        self._gntdev = gntdev
        self._channels = channels
        self._presentation = presentation
        self._on_broken = on_broken
        self.connectors: list[Connector] = []
        self.table = BufferTable(
            host,
            domid,
            gntdev,
            quota,
            presentation.domain,
            executor,
            on_drop=self._hide_framebuffer,
            on_late=self._show_again,
        )
        self._device_operations = {
            displif.OP_DBUF_CREATE: self.table.create,
            displif.OP_DBUF_DESTROY: self.table.destroy,
            displif.OP_FB_ATTACH: self.table.attach,
            displif.OP_FB_DETACH: self.table.detach,
        }
        self._connector_operations = {
            displif.OP_SET_CONFIG: self._set_config,
            displif.OP_PG_FLIP: self._pg_flip,
            displif.OP_GET_EDID: self._get_edid,
        }

    # -- life

    async def connect(self, specs: list[ConnectorSpec]) -> None:
        """Open all connectors or none; OSError says which page or port was refused."""
        try:
            for spec in specs:
                connector = Connector(
                    spec, self._domid, self._gntdev, self._channels, self._handle, self._on_broken
                )
                connector.open()
                self.connectors.append(connector)
        except OSError:
            await self.close()
            raise

    async def close(self) -> bool:
        """Crash-release: give everything back, whatever phase the DomU died in.

        True once no page of the DomU is mapped any more, False if the compositor still holds some
        after a bounded wait (the kernel gives them back when it lets go). Idempotent.
        """
        for connector in self.connectors:
            await connector.close()
            self._hide(connector, answer=False)
        self.connectors.clear()
        return await self.table.close()

    # -- dispatch

    async def _handle(self, connector: Connector, request: displif.Request) -> tuple[int, int]:
        """(status, edid_sz) of the response; status is 0 or a negative errno."""
        try:
            return 0, await self._operate(connector, request) or 0
        except RequestError as error:
            connector.refused(f"0x{request.operation:02x}", error)
            return -error.errno, 0
        except ConnectionLost as error:
            connector.refused(f"0x{request.operation:02x}", error)
            return -errno.EAGAIN, 0
        except OSError as error:
            connector.refused(f"0x{request.operation:02x}", error)
            return -(error.errno or errno.EIO), 0

    async def _operate(self, connector: Connector, request: displif.Request) -> int | None:
        if operation := self._connector_operations.get(request.operation):
            return await operation(connector, request.body)
        operation = self._device_operations.get(request.operation)
        if operation is None:
            raise RequestError(
                errno.EOPNOTSUPP, "operation", f"0x{request.operation:02x}", "unknown"
            )
        if connector.spec.index != 0:
            raise RequestError(
                errno.EINVAL, "connector", connector.spec.index, "must be sent over connector 0"
            )
        return await operation(request.body)

    # -- what is shown

    async def _set_config(self, connector: Connector, request: displif.SetConfig) -> None:
        if request.reset:
            connector.configuration = None
            self._hide(connector)
            return
        framebuffer = await self._drawn(request.fb_cookie)
        crop = geometry.crop_of(
            request,
            framebuffer.width,
            framebuffer.height,
            connector.spec.width,
            connector.spec.height,
        )
        connector.configuration = Configuration(request, request.fb_cookie, crop)
        self._present(connector, framebuffer, None)

    async def _pg_flip(self, connector: Connector, request: displif.PgFlip) -> None:
        if not await connector.flip_slot():
            raise RequestError(errno.EBUSY, "fb_cookie", request.fb_cookie, "too many open flips")
        framebuffer = await self._drawn(request.fb_cookie)
        configuration = connector.configuration
        if configuration is None:
            raise RequestError(
                errno.EINVAL, "fb_cookie", request.fb_cookie, "flip before SET_CONFIG"
            )
        config = configuration.request
        configuration.crop = geometry.crop_of(
            config,
            framebuffer.width,
            framebuffer.height,
            connector.spec.width,
            connector.spec.height,
        )
        configuration.fb_cookie = request.fb_cookie
        self._present(connector, framebuffer, connector.flip_started(request.fb_cookie))

    async def _drawn(self, cookie: int) -> Framebuffer:
        """The framebuffer, with its new content where the GPU reads it; RequestError if none."""
        framebuffer = self.table.framebuffer(cookie)
        caches = self._host.caches
        if caches and caches.needed:
            await caches.write_back(framebuffer.buffer.backing)
            return self.table.framebuffer(cookie)  # another connector may have detached it
        return framebuffer

    def _present(self, connector: Connector, framebuffer: Framebuffer, answer) -> None:
        backing = framebuffer.buffer.backing
        compositor = self._host.compositor
        if framebuffer.image is None or compositor is None or backing is None:
            if answer:
                delay = 1 / self._presentation.hidden_rate
                asyncio.get_running_loop().call_later(delay, answer, False)
            return
        copied = isinstance(backing, CopyBacking)
        if isinstance(backing, CopyBacking):
            self._host.totals.pixel_bytes_copied += backing.copy()
        if connector.window is None:
            connector.window = self._window(connector, compositor)
        assert connector.configuration is not None
        connector.window.present(
            framebuffer.image, connector.configuration.crop, answer, wait_release=not copied
        )

    def _window(self, connector: Connector, compositor: Compositor) -> Window:
        domain, name = self._presentation.domain, connector.spec.name
        return Window(
            compositor,
            f"{domain} {name}",
            f"{self._presentation.app_id}.{domain}.{name}",
            self._presentation.scale,
            self._presentation.hidden_rate,
        )

    def _hide(self, connector: Connector, *, answer: bool = True) -> None:
        """Unmap the window; flips still open are answered as not shown."""
        window, connector.window = connector.window, None
        if window is None:
            return
        for done in window.destroy():
            if answer:
                done(False)

    def _hide_framebuffer(self, framebuffer: Framebuffer) -> None:
        """Unmap the windows that show a framebuffer which is about to go."""
        for connector in self.connectors:
            shown = connector.configuration
            if shown and shown.fb_cookie == framebuffer.cookie:
                self._hide(connector)
                connector.configuration = None
            elif connector.window and connector.window.shows(framebuffer.image):
                self._hide(connector)

    async def _get_edid(self, connector: Connector, request: displif.GetEdid) -> int:
        if request.buffer_sz < displif.EDID_MAX_SIZE:
            raise RequestError(
                errno.EINVAL, "buffer_sz", request.buffer_sz, f"at least {displif.EDID_MAX_SIZE}"
            )
        edid = displif.build_edid(connector.spec.width, connector.spec.height, connector.spec.name)
        reader = gref.page_reader(self._gntdev, self._domid)
        refs = gref.read_directory(reader, request.gref_directory, 1)
        mapping = _sys.gntdev_map(self._gntdev, self._domid, refs, writable=True)
        try:
            mapping.map[: len(edid)] = edid
        finally:
            mapping.close()
        return len(edid)

    # -- the compositor's coming and going

    def compositor_lost(self) -> None:
        """Forget every Wayland object; the DomU's pages stay mapped and backed."""
        for connector in self.connectors:
            self._hide(connector)
        self.table.compositor_lost()

    async def restore(self) -> None:
        """Show again in a new compositor what was shown in the old one."""
        await self.table.restore()
        for framebuffer in list(self.table.framebuffers.values()):
            self._show_again(framebuffer)

    def _show_again(self, framebuffer: Framebuffer) -> None:
        """Present a framebuffer whose wl_buffer came late, where it is what should be shown."""
        for connector in self.connectors:
            configuration = connector.configuration
            if configuration and configuration.fb_cookie == framebuffer.cookie:
                self._present(connector, framebuffer, None)

    def status(self) -> dict:
        return {
            "connectors": [connector.status() for connector in self.connectors],
            **self.table.status(),
        }
