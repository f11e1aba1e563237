# SPDX-License-Identifier: MIT
"""Event channels of one DomU over one /dev/xen/evtchn file, restricted to that domain for good."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from . import _sys

_BURST = 500  # events of one port within _WINDOW that are taken at once
_WINDOW = 0.5
_PENALTY = 0.02  # then the port stays masked this long: the kernel holds the storm off


class EventChannels:
    """Owns the file. Callbacks run in the asyncio thread; a port is unmasked after its callback."""

    def __init__(self, domid: int) -> None:
        self._domid = domid
        self._loop = asyncio.get_running_loop()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._counts: dict[int, tuple[float, int]] = {}
        self.throttled = 0
        self.fd = _sys.open_device(_sys.EVTCHN)
        try:
            if domid:  # evtchn.c refuses 0; as its own frontend Dom0 needs no fence
                _sys.evtchn_restrict(self.fd, domid)
        except OSError:
            os.close(self.fd)
            raise
        os.set_blocking(self.fd, False)
        self._loop.add_reader(self.fd, self._readable)

    def close(self) -> None:
        if self.fd >= 0:
            self._loop.remove_reader(self.fd)
            os.close(self.fd)
            self.fd = -1

    def bind(self, remote_port: int, callback: Callable[[], None]) -> int:
        """Bind the DomU's port; returns the local one, for notify() and unbind()."""
        port = _sys.evtchn_bind(self.fd, self._domid, remote_port)
        self._callbacks[port] = callback
        return port

    def unbind(self, port: int) -> None:
        if self._callbacks.pop(port, None) is not None:
            self._counts.pop(port, None)
            _sys.evtchn_unbind(self.fd, port)

    def notify(self, port: int) -> None:
        _sys.evtchn_notify(self.fd, port)

    def _readable(self) -> None:
        try:
            ports = _sys.evtchn_read(self.fd)
        except BlockingIOError:
            return
        for port in ports:
            callback = self._callbacks.get(port)
            if callback is None:
                continue
            callback()
            delay = self._delay(port)
            if delay:
                self._loop.call_later(delay, self._unmask, port)
            else:
                self._unmask(port)

    def _delay(self, port: int) -> float:
        now = self._loop.time()
        start, count = self._counts.get(port, (now, 0))
        if now - start > _WINDOW:
            start, count = now, 0
        self._counts[port] = (start, count + 1)
        if count < _BURST:
            return 0.0
        self.throttled += 1
        return _PENALTY

    def _unmask(self, port: int) -> None:
        if port in self._callbacks:
            _sys.evtchn_unmask(self.fd, port)
