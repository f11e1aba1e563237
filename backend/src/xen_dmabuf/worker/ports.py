# SPDX-License-Identifier: MIT
"""The event channels of one DomU in the event loop: callbacks, and storms held off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .. import limits
from ..pump.loop import current, unwatch, watch
from ..xen.evtchn import Evtchn

_BURST = 500  # events of one port that are taken at once, again and again if they take longer than _WINDOW
_WINDOW = 0.5


class Ports:
    """Owns the file. Callbacks run in the asyncio thread; a port is unmasked after its callback."""

    def __init__(self, evtchn: Evtchn) -> None:
        self.evtchn = evtchn
        self._loop = asyncio.get_running_loop()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._counts: dict[int, int] = {}  # events since then
        self._since: dict[int, float] = {}
        self.throttled = 0
        self._pump = current()
        if self._pump:
            self._pump.state.evtchn = evtchn.fd
        watch(self._loop, evtchn.fd, self._readable)

    def close(self) -> None:
        if self.evtchn.fd >= 0:
            if self._pump:
                self._pump.state.evtchn = -1
            unwatch(self._loop, self.evtchn.fd)
            self.evtchn.close()

    def bind(self, remote_port: int, callback: Callable[[], None]) -> int:
        """Bind the DomU's port; returns the local one, for notify() and unbind()."""
        port = self.evtchn.bind(remote_port)
        self._callbacks[port] = callback
        return port

    def adopt(self, port: int, callback: Callable[[], None]) -> None:
        """Go on with a port that another process bound, and may have left masked. OSError."""
        self.evtchn.notify(port)  # fails unless the file has this port
        self._callbacks[port] = callback
        self.evtchn.unmask(port)

    def unbind(self, port: int) -> None:
        if self._callbacks.pop(port, None) is not None:
            self._counts.pop(port, None)
            self._since.pop(port, None)
            self.evtchn.unbind(port)

    def notify(self, port: int) -> None:
        self.evtchn.notify(port)

    def _readable(self) -> None:
        ports = self._pump.take_ports() if self._pump else []
        try:
            ports += self.evtchn.read()
        except BlockingIOError:
            if not ports:
                return
        for port in ports:
            callback = self._callbacks.get(port)
            if callback is None:
                continue
            callback()
            if port not in self._callbacks:
                continue  # unbound meanwhile
            delay = self._delay(port)
            if delay:
                self._loop.call_later(delay, self._unmask, port)
            else:
                self.evtchn.unmask(port)

    def _delay(self, port: int) -> float:
        count = self._counts[port] = self._counts.get(port, 0) + 1
        if count <= _BURST:
            return 0.0
        now = self._loop.time()
        if now - self._since.get(port, 0.0) > _WINDOW:
            self._counts[port], self._since[port] = 0, now
            return 0.0
        self.throttled += 1
        return limits.STORM  # masked meanwhile: the kernel holds it off

    def _unmask(self, port: int) -> None:
        if port in self._callbacks:
            self.evtchn.unmask(port)
