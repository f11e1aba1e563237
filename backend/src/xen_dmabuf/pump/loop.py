# SPDX-License-Identifier: MIT
"""An event loop whose selector lets C deal with plain flips; without C it is asyncio's own."""

from __future__ import annotations

import asyncio
import math
import select
import selectors
from collections.abc import Callable
from typing import Any

from . import ffi, lib

_MOST = 64
orphans: dict[int, Callable[[], None]] = {}
"""By address: who hears of a frame callback that C asked for, and that is Python's since."""
notify: Any = lib and lib.evtchn_notify
unmask: Any = lib and lib.evtchn_unmask

if lib:

    @ffi.def_extern()  # type: ignore[untyped-decorator]
    def callback_done(pointer: Any) -> None:
        orphan = orphans.get(int(ffi.cast("uintptr_t", pointer)))
        if orphan:
            orphan()


_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Selector(selectors.EpollSelector):
    """``state`` is the struct pump. Asyncio thread only.

    ``lanes``: by address, what to call when C can't go on with one. ``flush`` sends what the
    compositor's socket had no room for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = ffi.new("struct pump *", {"evtchn": -1, "wayland": -1})
        self.state.notify, self.state.unmask, self.state.clock = notify, unmask, lib.monotonic
        lib.buffers_pump = self.state
        self.lanes: dict[Any, Callable[[], None]] = {}
        self.flush: Callable[[], None] = lambda: None
        self._ready = ffi.new(f"struct ready[{_MOST}]")

    def close(self) -> None:
        if lib.buffers_pump == self.state:
            lib.buffers_pump = ffi.NULL
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self.state.lent:
            return super().select(timeout)
        wait = -1 if timeout is None else max(0, math.ceil(timeout * 1e3))
        count = lib.pump_wait(self.state, self.fileno(), wait, self._ready, _MOST)
        if count < 0:
            raise OSError(-count, "epoll_wait")
        keys = self.get_map()
        found = []
        for entry in self._ready[0:count]:
            key = keys.get(entry.fd)
            if key:
                mask = (_WRITE if entry.events & ~select.EPOLLIN else 0) | (
                    _READ if entry.events & ~select.EPOLLOUT else 0
                )
                found.append((key, mask & key.events))
        self._attend()
        return found

    def _attend(self) -> None:
        if self.state.flush_again:
            self.state.flush_again = False
            self.flush()
        for lane, resume in list(self.lanes.items()):
            if lane.attention:
                resume()

    def take_ports(self) -> list[int]:
        """The event channels' ports that C has read and left to Python."""
        count, self.state.ports_left = self.state.ports_left, 0
        return list(self.state.ports[0:count])


class Loop(asyncio.SelectorEventLoop):
    """``pump`` is its selector."""

    def __init__(self) -> None:
        self.pump = Selector()
        super().__init__(self.pump)


def new_loop() -> asyncio.AbstractEventLoop:
    """For asyncio.Runner(loop_factory=)."""
    return asyncio.SelectorEventLoop() if lib is None else Loop()


def current() -> Selector | None:
    """The running loop's; None: flips are Python's."""
    return getattr(asyncio.get_running_loop(), "pump", None)
