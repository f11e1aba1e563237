# SPDX-License-Identifier: MIT
"""A connection to the compositor, and another whenever it ended, in growing pauses. Asyncio thread only."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable
from typing import Any

from ..errors import ConnectionLost
from ..log import fields

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LAST_PAUSE = 0.25, 8.0
_LIVED_LONG = 10.0


async def keep_compositor(socket: str, who: str, found: Callable[[Any, bool], None], lost: Callable[[], None]) -> None:
    """Until it is cancelled. ``found(compositor, at_once)``: it is connected; ``at_once``: it was lost and is there
    again, so it was only this connection that ended. ``lost()``: at once, so that nobody uses an object of the dead
    connection. ``who``: of log lines."""
    loop = asyncio.get_running_loop()
    # in a thread: Python's import of it takes longer than a frontend waits, on slow machines
    module = await loop.run_in_executor(None, importlib.import_module, "xen_dmabuf.worker.compositor")
    reported, pause, at_once = "", _FIRST_PAUSE, False
    while True:
        ended = asyncio.Event()
        began = loop.time()
        compositor = module.Compositor(socket, _both(lost, ended.set))
        try:
            await compositor.connect()
        except (OSError, ConnectionLost, RuntimeError, ValueError) as error:
            compositor.close()
            reason = str(error)
            at_once = False
        else:
            log.info("compositor connected", extra=fields(domain=who, socket=socket))
            found(compositor, at_once)
            at_once = True
            await ended.wait()
            reason = "the compositor ended the connection"
            if loop.time() - began > _LIVED_LONG:
                reported, pause = "", _FIRST_PAUSE
        if reason != reported:
            reported = reason
            log.warning("no compositor", extra=fields(domain=who, reason=reason))
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LAST_PAUSE)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call
