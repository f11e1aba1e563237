# SPDX-License-Identifier: MIT
"""The requests that each frame of a surface needs, from arguments that are made once.

pywayland converts each argument of each request and makes an object with a table of handlers for each
callback: that costs more than all else of a flip. What is used of it here are its bindings of
libwayland-client (wl_proxy_marshal_array(), wl_proxy_add_dispatcher()), which are the same in all its
releases. In the asyncio thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..pump.loop import orphans
from .protocols import Proxy, WlCallback, WlSurface, ffi, lib

if TYPE_CHECKING:
    from .compositor import Compositor

_ATTACH, _DAMAGE, _FRAME, _COMMIT = (
    next(number for number, request in enumerate(WlSurface.requests) if request.name == name)
    for name in ("attach", "damage_buffer", "frame", "commit")
)
_ALL = 0x7FFFFFFF


def attach_arguments(buffer: Proxy) -> Any:
    """What attach() needs of a wl_buffer: a C array that is valid as long as the wl_buffer."""
    arguments: Any = ffi.new("union wl_argument[3]")
    arguments[0].o = ffi.cast("struct wl_object *", buffer._ptr)
    return arguments


class Callback:
    """A wl_callback, of its request or of an earlier one: it is used again once it is done.

    ``committed``: when (loop time). ``address``: of one that C has asked for, else 0. pywayland's dispatcher
    looks for ``dispatcher`` alone.
    """

    __slots__ = ("address", "committed", "dispatcher", "handle", "pointer")

    def __init__(self, dispatcher: _Dispatcher) -> None:
        self.address = 0
        self.committed = 0.0
        self.dispatcher = dispatcher
        self.handle: Any = ffi.new_handle(self)
        self.pointer: Any = None


class _Dispatcher(list[Callable[[Callback], None]]):
    """The handler of each event, as pywayland's Dispatcher has them; the one argument isn't converted."""

    class _Message:
        @staticmethod
        def c_to_arguments(_arguments: Any) -> tuple[()]:
            return ()

    messages = (_Message,)


class Frames:
    """Of one surface, until close(), which comes before the connection's end."""

    def __init__(self, compositor: Compositor, surface: Proxy, done: Callable[[Callback], None]) -> None:
        """``done`` hears each answered callback that wasn't forgotten."""
        self._compositor = compositor
        self.pointer: Any = ffi.cast("struct wl_proxy *", surface._ptr)
        self._done = done
        self.everything: Any = ffi.new("union wl_argument[4]", [{"i": 0}, {"i": 0}, {"i": _ALL}, {"i": _ALL}])
        self._new: Any = ffi.new("union wl_argument[1]")
        self._dispatcher = _Dispatcher([self._on_done])
        self._open: set[Callback] = set()
        self._free: list[Callback] = []
        compositor.at_end[self] = self.close

    def attach(self, arguments: Any) -> None:
        """``arguments``: of attach_arguments()."""
        lib.wl_proxy_marshal_array(self.pointer, _ATTACH, arguments)

    def damage(self) -> None:
        """All of the buffer."""
        lib.wl_proxy_marshal_array(self.pointer, _DAMAGE, self.everything)

    def callback(self, now: float) -> Callback:
        """Ask for the next commit's frame event."""
        callback = self._free.pop() if self._free else Callback(self._dispatcher)
        callback.committed = now
        self._new[0].o = ffi.NULL
        pointer = lib.wl_proxy_marshal_array_constructor(self.pointer, _FRAME, self._new, WlCallback._ptr)
        if not pointer:
            raise MemoryError("wl_surface.frame")
        callback.pointer = pointer
        lib.wl_proxy_add_dispatcher(pointer, lib.dispatcher_func, callback.handle, ffi.NULL)
        self._open.add(callback)
        return callback

    def commit(self) -> None:
        lib.wl_proxy_marshal_array(self.pointer, _COMMIT, ffi.NULL)

    def adopt(self, address: int, committed: float) -> Callback:
        """A callback that C has asked for, and will be told of through the pump."""
        callback = self._free.pop() if self._free else Callback(self._dispatcher)
        callback.committed = committed
        callback.pointer = ffi.cast("struct wl_proxy *", ffi.cast("uintptr_t", address))  # type: ignore[type-var]  # the stubs know structs
        callback.address = address
        orphans[address] = functools.partial(self._on_done, callback)
        self._open.add(callback)
        return callback

    def forget(self, callback: Callback) -> None:
        """It isn't heard any more, and may be used again. Idempotent."""
        if callback in self._open:
            if callback.address:
                del orphans[callback.address]
                callback.address = 0
            self._open.discard(callback)
            lib.wl_proxy_destroy(callback.pointer)
            callback.pointer = None
            self._free.append(callback)

    def _on_done(self, callback: Callback) -> None:
        self._done(callback)
        self.forget(callback)

    def close(self) -> None:
        """Idempotent."""
        for callback in list(self._open):
            self.forget(callback)
        self.pointer = None  # of an object that may be gone
        self._compositor.at_end.pop(self, None)
