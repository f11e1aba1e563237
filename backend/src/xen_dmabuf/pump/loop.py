# SPDX-License-Identifier: MIT
"""An event loop whose selector serves what is quick: by C plain flips, by Python the files of watch()."""

from __future__ import annotations

import asyncio
import math
import os
import select
import selectors
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple, Unpack

from . import ffi, lib

_MOST = 64
_Ts = TypeVarTuple("_Ts")
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
    """Where asyncio waits. Whoever watches the only file that is ready is called from here, and waiting goes
    on: a turn of the loop, with a handle, a context and a queue, costs a fifth of a flip.

    ``at_once``: by descriptor, who is called; ``calls``: how often that was; ``ends``: somebody wants the loop
    to have its turn. Asyncio thread only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_once: dict[int, Callable[[], None]] = {}
        self.calls = 0
        self.ends = False
        self._epoll = select.epoll.fromfd(os.dup(self.fileno()))

    def close(self) -> None:
        self._epoll.close()
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.ends = False
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            ready = self._epoll.poll(timeout, _MOST)
            if len(ready) != 1:
                return self._found(ready)
            fd, events = ready[0]
            callback = self.at_once.get(fd)
            if callback is None or events != select.EPOLLIN:
                return self._found(ready)
            self._call(callback)
            if self.ends:
                return []
            if end is not None:
                timeout = end - time.monotonic()
                if timeout <= 0:
                    return []

    def _call(self, callback: Callable[[], None]) -> None:
        self.calls += 1
        try:
            callback()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # as asyncio does
            context = {"message": f"Exception in callback {callback!r}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _found(self, ready: list[tuple[int, int]]) -> list[tuple[selectors.SelectorKey, int]]:
        """What select() returns for what epoll has returned."""
        keys, found = self.get_map(), []
        for fd, events in ready:
            key = keys.get(fd)
            if key:
                mask = (_WRITE if events & ~select.EPOLLIN else 0) | (_READ if events & ~select.EPOLLOUT else 0)
                found.append((key, mask & key.events))
        return found


class Pump(Selector):
    """``state`` is the struct pump.

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
        found = self._found([(entry.fd, entry.events) for entry in self._ready[0:count]])
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
    """``pump`` is its selector where C serves flips, else None."""

    time = staticmethod(time.monotonic)  # asyncio's own method, without the method

    def __init__(self, selector: Selector | None = None) -> None:
        self.selector = selector or (Pump() if lib else Selector())
        self.pump = self.selector if isinstance(self.selector, Pump) else None
        super().__init__(self.selector)

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self.selector.ends = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self.selector.ends = True
        return super().call_at(when, callback, *args, context=context)


def current() -> Pump | None:
    """The running loop's; None: flips are Python's."""
    return getattr(asyncio.get_running_loop(), "pump", None)


def watch(loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], None]) -> None:
    """add_reader(), for a callback that doesn't look at its context."""
    loop.add_reader(fd, callback)
    if isinstance(loop, Loop):
        loop.selector.at_once[fd] = callback


def unwatch(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    """remove_reader(), of what watch() was told. Idempotent."""
    loop.remove_reader(fd)
    if isinstance(loop, Loop):
        loop.selector.at_once.pop(fd, None)
