# SPDX-License-Identifier: MIT
"""What systemd is told: that the service is ready, ends, and is alive (sd_notify(3), WatchdogSec=)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket


class Notifier:
    """One socket from the beginning to close(): daemon.notify() of python-systemd makes one for each word, and
    a process that has no descriptor left would be ended for its silence. Nothing without systemd.

    Asyncio thread only.
    """

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None
        self._feeding: asyncio.TimerHandle | None = None

    @property
    def heard(self) -> bool:
        """Whether systemd started this process."""
        return self._socket is not None

    def say(self, text: str) -> None:
        if self._socket:
            with contextlib.suppress(OSError):  # there is nobody else to be told
                self._socket.sendto(text.encode(), self._address)

    def feed(self) -> None:
        """Say from now on, from this loop, that it runs."""
        usec = int(os.environ.get("WATCHDOG_USEC", "0"))
        if usec and self._socket:
            self.say("WATCHDOG=1")
            self._feeding = asyncio.get_running_loop().call_later(usec / 3e6, self.feed)

    def close(self) -> None:
        if self._feeding:
            self._feeding.cancel()
        if self._socket:
            self._socket.close()
            self._socket = None
