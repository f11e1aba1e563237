# SPDX-License-Identifier: MIT
"""A whole Device between a DomU's requests (device.py) and a compositor that says anything (wayland.py)."""

from __future__ import annotations

import asyncio
import errno

from xen_dmabuf.errors import ConnectionLost
from xen_dmabuf.worker.compositor import Compositor
from xen_dmabuf.worker.device import Device

from .base import check, settle
from .device import Connector, Session
from .wayland import Server


class Shown(Session):
    """Its compositor is connected to whenever it is gone, as a Worker does; the DomU hears nothing of it."""

    statuses = Session.statuses | {errno.EAGAIN}

    def _begin(self, device: Device) -> None:
        self.device = device
        self.server = Server(self.chance)
        self.compositor: Compositor | None = None
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            lost = asyncio.Event()
            compositor = self.compositor = Compositor(self.server.path, lambda event=lost: self._lost(event))
            try:
                await compositor.connect()
            except (OSError, ConnectionLost, RuntimeError, ValueError):
                compositor.close()
            else:
                self.scene.compositor = compositor
                self.device.compositor_found(self.chance.random() < 0.5)
                restore = asyncio.get_running_loop().create_task(self.device.restore())
                try:
                    await lost.wait()
                finally:
                    restore.cancel()
                    await asyncio.wait({restore})
                    check(restore.cancelled() or not restore.exception(), "restore()", restore)
            await asyncio.sleep(0.25)

    def _lost(self, lost: asyncio.Event) -> None:
        self.scene.compositor = None
        self.device.compositor_lost()
        lost.set()

    def _act(self) -> None:
        before = self.server.events
        for _ in range(self.chance.choice((0, 1, 1, 4))):
            self.server.act()
        self.inputs += self.server.events - before

    def _hold(self, device: Device) -> None:
        self._act()
        super()._hold(device)

    def _is_held(self) -> bool:
        return True  # what was sent and not read yet, too

    async def _answers(self, connector: Connector) -> None:
        """Those to flips need not come: a compositor may keep what it shows for ever."""
        for _ in range(self.chance.choice((1, 10))):
            self._act()
            await asyncio.sleep(self.chance.choice((0, 0, 0.01, 3)))

    async def _end_compositor(self) -> None:
        """Nobody shows anything any more; idempotent."""
        if self._keeper.done():
            if not self._keeper.cancelled():
                self._keeper.result()  # raises: it never ends by itself
            return
        if self.scene.compositor and self.chance.random() < 0.5:
            self.server.break_off()
            await settle(lambda: not self.scene.compositor, "the loss of a compositor", 30)
        self._keeper.cancel()
        await asyncio.wait({self._keeper})
        if self.compositor and self.compositor.alive:
            self.compositor.close()
            self.scene.compositor = None
            self.device.compositor_lost()
        self.server.close()

    async def _finish(self, device: Device, connectors: list[Connector], tables: object) -> None:
        """Now all flips are answered, as not shown those that were waiting for it."""
        await self._end_compositor()
        await super()._finish(device, connectors, tables)  # type: ignore[arg-type]

    async def _close(self, device: Device) -> None:
        if not self._keeper.done() and self.chance.random() < 0.5:
            await device.close()  # while it is there
        await self._end_compositor()
        await super()._close(device)
