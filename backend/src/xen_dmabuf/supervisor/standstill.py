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
    """Watches the running loop while the context is open, in which that loop may be blocked."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._beaten = time.monotonic()
        self._said = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._next: asyncio.TimerHandle | None = None

    def __enter__(self) -> Standstill:
        self._thread.start()
        self._beat()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._next:
            self._next.cancel()

    def _beat(self) -> None:
        if self._said:
            self._said = False
            log.warning("goes on", extra=fields(after=f"{time.monotonic() - self._beaten:.0f} s"))
        self._beaten = time.monotonic()
        self._next = self._loop.call_later(limits.STANDSTILL / 4, self._beat)

    def _watch(self) -> None:
        while not self._ended.wait(limits.STANDSTILL / 2):
            if not self._said and time.monotonic() - self._beaten > limits.STANDSTILL:
                self._said = True
                log.error(
                    "the supervisor stands still: XenStore does not answer, or the machine is overloaded; guests draw"
                    " on, but no display connects or ends until `xenstore-ls` answers",
                    extra=fields(seconds=limits.STANDSTILL),
                )
