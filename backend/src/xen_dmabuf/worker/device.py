# SPDX-License-Identifier: MIT
"""One vdispl device of a DomU: routes requests, and owns the tables and the connectors.

Asyncio thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable

from .. import limits
from ..config import Quota
from ..displif import geometry, wire
from ..displif.spec import ConnectorSpec
from ..errors import RequestError
from ..link.messages import DeviceStatus, Held
from ..xen.gntdev import Gntdev
from .backing import BackingFactory
from .connector import Connector
from .displaybuffers import DisplayBuffers
from .framebuffers import Framebuffer, Framebuffers
from .ports import Ports
from .releases import Releases
from .scene import Scene
from .state import StoredConnector, StoredDevice
from .statefile import StateFile
from .store import FdStore


def _label(spec: ConnectorSpec, specs: tuple[ConnectorSpec, ...]) -> str:
    """A connector's name in titles: two that share a unique-id are told apart by their index."""
    shared = sum(other.name == spec.name for other in specs) > 1
    return f"{spec.name}-{spec.index}" if shared else spec.name


class Device:
    """The state between connect() or adopt() and close() of one frontend."""

    def __init__(
        self,
        number: int,
        grants: Gntdev,
        ports: Ports,
        scene: Scene,
        quota: Quota,
        releases: Releases,
        store: FdStore,
        state: StateFile,
        factory: Callable[[float], Awaitable[BackingFactory]],
        on_change: Callable[[], None],
        on_broken: Callable[[str], None],
    ) -> None:
        """``factory`` may wait for the compositor, ``on_change`` stores what stored() returns,
        ``on_broken`` hears why the frontend can't be served any more."""
        self.number = number
        self.connectors: list[Connector] = []
        self.buffers = DisplayBuffers(grants, quota, scene.domain, releases, store, factory)
        self.framebuffers = Framebuffers(self.buffers, scene, quota, self._drop, self._show_again, self._see_through)
        self._grants = grants
        self._ports = ports
        self._scene = scene
        self._state = state
        self._on_change = on_change
        self._on_broken = on_broken
        self._lock = asyncio.Lock()  # of the tables: connectors' requests, and close()

    # -- connecting

    def connect(self, specs: tuple[ConnectorSpec, ...]) -> None:
        """Open all connectors; OSError or StateError: the caller closes what there is."""
        for spec in specs:
            connector = self._connector(spec, _label(spec, specs))
            self.connectors.append(connector)  # close() gives its journal back if it can't open
            connector.open()
        self.start()

    def adopt(self, stored: StoredDevice, files: dict[str, int]) -> None:
        """What another process had; takes the buffers' files. Nobody is answered before start().

        OSError, StateError or RequestError: it can't be gone on with; the caller calls abandon().
        """
        for number in stored.buffers:
            self.buffers.restore(number, files)
        for framebuffer in stored.framebuffers:
            self.framebuffers.adopt(framebuffer)
        specs = tuple(entry.spec for entry in stored.connectors)
        for entry in stored.connectors:
            connector = self._connector(entry.spec, _label(entry.spec, specs), entry)
            self.connectors.append(connector)
            connector.adopt(entry)

    def abandon(self) -> None:
        """Close what adopt() has taken so far; nobody was answered and nothing is waited for."""
        for connector in self.connectors:
            with contextlib.suppress(OSError):
                connector.abandon()
        self.connectors.clear()
        self.framebuffers.close()
        self.buffers.abandon()

    def _connector(self, spec: ConnectorSpec, label: str, stored: StoredConnector | None = None) -> Connector:
        slot, journal = self._state.take_journal(stored.journal if stored else -1)
        return Connector(
            spec,
            self._grants,
            self._ports,
            self._scene,
            self.framebuffers,
            slot,
            journal,
            label,
            operate=lambda request, by: self._operate(spec.index, request, by),
            on_change=self._on_change,
            on_broken=self._on_broken,
        )

    def _version(self) -> int:
        """The protocol's, as the frontend has chosen it."""
        return self.connectors[0].spec.version

    def rename(self) -> None:
        """The domain is called otherwise now."""
        for connector in self.connectors:
            connector.rename()

    def start(self) -> None:
        """Begin to answer."""
        for connector in self.connectors:
            connector.start()

    async def close(self) -> bool:
        """Crash-release: give everything back, whatever phase the DomU died in.

        True once no page of the DomU is mapped any more, False if the compositor still holds some
        after a bounded wait (the kernel gives them back when it lets go). Idempotent.
        """
        connectors, self.connectors = self.connectors, []
        for connector in connectors:
            await connector.stop()
        async with self._lock:
            self.framebuffers.close()
        if any(buffer.was_read for buffer in self.buffers):
            await self._reach_screen(connectors, limits.NO_DEADLINE)
        for connector in connectors:
            await connector.close()
            self._state.give_journal(connector.slot)
        return await self.buffers.close()

    # -- requests that aren't connector specific

    async def _operate(self, connector: int, request: wire.Request, by: float) -> None:
        body = request.body
        if body is None:
            raise RequestError(errno.EOPNOTSUPP, "operation", f"0x{request.operation:02x}", "unknown")
        if connector != 0:
            raise RequestError(errno.EINVAL, "connector", connector, "must be sent over connector 0")
        async with self._lock:
            if isinstance(body, wire.DbufCreate):
                await self.buffers.create(geometry.of_version(body, self._version()), by)
            elif isinstance(body, wire.DbufDestroy):
                await self._destroy(body.dbuf_cookie, by)
            elif isinstance(body, wire.FbAttach):
                await self.framebuffers.attach(body, by)
            elif isinstance(body, wire.FbDetach):
                self.framebuffers.detach(body.fb_cookie)
        self._on_change()

    async def _destroy(self, cookie: int, by: float) -> None:
        buffer = self.buffers.get(cookie)
        for framebuffer in self.framebuffers.on(buffer):
            self.framebuffers.drop(framebuffer)
        if buffer.was_read:
            await self._reach_screen(self.connectors, by)
        buffer = self.buffers.take(cookie)
        self._on_change()  # before its files go: a table that names them could not be gone on with
        await self.buffers.give_back(buffer, by)

    # -- what is shown

    @staticmethod
    async def _reach_screen(connectors: list[Connector], by: float) -> None:
        """Before pages go that a GPU may still read: a driver without fences (galcore) says only by a frame that is
        on the screen that it has read those before."""
        await asyncio.gather(*(connector.reach_screen(by) for connector in connectors))

    def _see_through(self) -> bool:
        return any(connector.see_through for connector in self.connectors)

    def _drop(self, framebuffer: Framebuffer) -> None:
        for connector in self.connectors:
            connector.drop(framebuffer)

    def _show_again(self, framebuffer: Framebuffer) -> None:
        for connector in self.connectors:
            connector.show_again(framebuffer)

    def compositor_lost(self) -> None:
        """Forget every Wayland object; the DomU's pages stay mapped and backed."""
        for connector in self.connectors:
            connector.reclaim()
        self.framebuffers.suspect()
        for connector in self.connectors:
            connector.close_window()
        self.framebuffers.compositor_lost()

    def compositor_found(self, at_once: bool) -> None:
        """``at_once``: it had ended this connection only, and may have had a reason."""
        if at_once:
            self.framebuffers.blame()
        for connector in self.connectors:
            connector.open_window()

    async def restore(self) -> None:
        """Show in a new compositor what was shown in the old one, or by another process."""
        await self.framebuffers.restore()
        for framebuffer in self.framebuffers:
            self._show_again(framebuffer)

    # -- what others hear

    def held(self) -> Held:
        return Held(self.number, tuple(connector.spec for connector in self.connectors))

    def stored(self) -> StoredDevice:
        return StoredDevice(
            self.number,
            tuple(connector.stored() for connector in self.connectors),
            tuple(buffer.number for buffer in self.buffers),
            tuple(framebuffer.stored() for framebuffer in self.framebuffers),
        )

    def status(self) -> DeviceStatus:
        return DeviceStatus(
            tuple(connector.status() for connector in self.connectors),
            tuple(buffer.status(self.framebuffers.formats(buffer)) for buffer in self.buffers),
        )
