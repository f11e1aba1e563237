# SPDX-License-Identifier: MIT
"""Shows again what a guest may have drawn into a framebuffer that it doesn't flip. Asyncio thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class Refresher:
    """Calls ``show`` ``rate`` times a second between start() and stop().

    drm_xen_front has no request for "drawn" (DRM_IOCTL_MODE_DIRTYFB is ENOSYS): a program that draws
    without flips would stay at its first picture for ever.
    """

    def __init__(self, rate: int, show: Callable[[], Awaitable[None]]) -> None:
        self._interval = 1 / rate
        self._show = show
        self._task: asyncio.Task[None] | None = None

    @property
    def runs(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        if self._task:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._interval)
                await self._show()
        except Exception:  # a bug of ours must not look like a guest that draws nothing
            log.exception("internal error")
