# SPDX-License-Identifier: MIT
"""Says that the loop stands still.

A call to xenstored has no end of its own. What ends a supervisor that hangs in one is systemd's watchdog, and its
successor hangs as well: somebody has to say why. A thread does, once, as the loop can't.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from .. import limits
from ..log import fields

log = logging.getLogger(__name__)


class Standstill:
    """Watches the running loop while the context is open, in which that loop may be blocked.

    The loop is asked now and then, so an idle machine is woken no more often than for systemd's watchdog.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Standstill:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._answered.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(limits.STANDSTILL):
            asked = time.monotonic()
            self._answered.clear()
            self._loop.call_soon_threadsafe(self._answered.set)
            if self._answered.wait(limits.STANDSTILL):
                continue
            log.error(
                "the supervisor stands still: XenStore does not answer, or the machine is overloaded; guests draw"
                " on, but no display connects or ends until `xenstore-ls` answers",
                extra=fields(seconds=limits.STANDSTILL),
            )
            self._answered.wait()
            log.warning("goes on", extra=fields(after=f"{time.monotonic() - asked:.0f} s"))
