# SPDX-License-Identifier: MIT
"""What systemd is told: that the service is ready, ends, is alive, and what it shall keep (sd_notify(3))."""

from __future__ import annotations

import array
import asyncio
import errno
import logging
import os
import socket
import time

from .log import RateLimit, fields

log = logging.getLogger(__name__)

_AGAIN = 0.1
_NO_ROOM = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)


class Notifier:
    """One socket from the beginning to close(): daemon.notify() of python-systemd makes one for each word, and
    a process that has no descriptor left would be ended for its silence. It also waits while systemd reads
    nothing, and then no DomU would be served. Nothing without systemd.

    Asyncio thread only, with its loop.
    """

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None
        self._late: dict[str, tuple[str, int]] = {}
        self._trying: asyncio.TimerHandle | None = None
        self._feeding: asyncio.TimerHandle | None = None
        self._refused = RateLimit(1, 60.0)

    @property
    def heard(self) -> bool:
        """Whether systemd started this process."""
        return self._socket is not None

    def say(self, text: str, fd: int = -1, key: str = "") -> None:
        """A word that is not lost if systemd has no room for it now: it is said later, after those before it.

        ``fd``: a file that goes with it. ``key``: what waits under this name is forgotten, as the new word takes
        its place; the word's own first name if it is empty. OSError: no descriptor is left to keep ``fd`` by.
        """
        key = key or text.partition("=")[0]
        self.forget(key)
        if self._late or not self._send(text, fd):
            self._late[key] = (text, os.dup(fd) if fd >= 0 else -1)
            self._try_later()

    def forget(self, key: str) -> None:
        """Don't say what waits under this name, if anything does."""
        _text, fd = self._late.pop(key, ("", -1))
        if fd >= 0:
            os.close(fd)

    def feed(self) -> None:
        """Say from now on, from this loop, that it runs."""
        usec = int(os.environ.get("WATCHDOG_USEC", "0"))
        if usec and self._socket:
            if not self._late:  # another follows soon
                self._send("WATCHDOG=1")
            self._feeding = asyncio.get_running_loop().call_later(usec / 3e6, self.feed)

    def close(self) -> None:
        """What systemd has no room for now is lost."""
        self._say_late()
        for timer in (self._feeding, self._trying):
            if timer:
                timer.cancel()
        for key in list(self._late):
            self.forget(key)
        if self._socket:
            self._socket.close()
            self._socket = None

    def _say_late(self) -> None:
        while self._late:
            key, (text, fd) = next(iter(self._late.items()))
            if not self._send(text, fd):
                return
            self.forget(key)

    def _try_later(self) -> None:
        if self._trying is None:
            self._trying = asyncio.get_running_loop().call_later(_AGAIN, self._try_again)

    def _try_again(self) -> None:
        self._trying = None
        self._say_late()
        if self._late:
            self._try_later()

    def _send(self, text: str, fd: int = -1) -> bool:
        """False: there is no room for it now."""
        if not self._socket:
            return True
        files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        try:
            self._socket.sendmsg([text.encode()], files, socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            if self._refused.allow(time.monotonic()):
                log.error("systemd can't be told", extra=fields(words=text.splitlines()[0], reason=error))
        return True
