# SPDX-License-Identifier: MIT
"""A connector's plain flips in C's hands (pump/): what it needs for them, and what it has done.

Between lend() and reclaim() the connector, its picture and its images are as they were at lend();
whoever looks at them or changes them calls reclaim() first. Asyncio thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import limits
from ..pump import ffi, lib
from ..pump.loop import Pump
from . import protocols
from .picture import Flight
from .protocols import Dispatcher, WlBuffer, WlCallback, WlSurface

if TYPE_CHECKING:
    from .compositor import Compositor
    from .image import Image


def address(pointer: Any) -> Any:
    """A pointer of pywayland's as one of the pump's."""
    return ffi.cast("void *", int(protocols.ffi.cast("uintptr_t", pointer)))


class _Buffer(WlBuffer.proxy_class):  # type: ignore[misc, valid-type]  # made when it runs
    """A wl_buffer whose events C hears first. libwayland takes one dispatcher for an object, so this does
    what pywayland's Proxy does to begin with, with another one."""

    def __init__(self, pointer: Any, display: Any) -> None:
        self.user_data = None
        self.dispatcher = Dispatcher(self.interface.events)
        self._display = display
        display._children.add(self)
        self._ptr: Any = protocols.ffi.gc(
            protocols.ffi.cast("struct wl_proxy *", pointer), protocols.lib.wl_proxy_destroy
        )
        self._handle: Any = protocols.ffi.new_handle(self)
        dispatcher: Any = protocols.ffi.cast("wl_dispatcher_func_t", _address_of(lib.buffer_dispatcher))
        protocols.lib.wl_proxy_add_dispatcher(self._ptr, dispatcher, self._handle, protocols.ffi.NULL)
        self.interface.registry[self._ptr] = self


def _address_of(function: Any) -> Any:
    """A function of the pump's as a pointer of pywayland's."""
    number = int(ffi.cast("uintptr_t", ffi.addressof(lib, function.__name__)))
    return protocols.ffi.cast("void *", number)  # type: ignore[type-var]  # the stubs know structs


WlBuffer.proxy_class = _Buffer
lib.python_dispatcher = ffi.cast(ffi.typeof(lib.python_dispatcher), address(protocols.lib.dispatcher_func))


def bind(pump: Pump, compositor: Compositor, display: protocols.Display) -> None:
    """Let C use a compositor's connection, while anything is lent."""
    state = pump.state
    for field, name in (
        ("marshal", "wl_proxy_marshal_array"),
        ("construct", "wl_proxy_marshal_array_constructor"),
        ("add_dispatcher", "wl_proxy_add_dispatcher"),
        ("destroy", "wl_proxy_destroy"),
        ("prepare_read", "wl_display_prepare_read"),
        ("read_events", "wl_display_read_events"),
        ("dispatch_pending", "wl_display_dispatch_pending"),
        ("dispatch_queue", "wl_display_dispatch_queue_pending"),
        ("flush", "wl_display_flush"),
    ):
        function = protocols.ffi.addressof(protocols.lib, name)  # type: ignore[type-var]  # stubs know structs only
        setattr(state, field, ffi.cast(ffi.typeof(getattr(state, field)), address(function)))
    state.callback_interface = address(WlCallback._ptr)
    for field, name in (("attach", "attach"), ("damage", "damage_buffer"), ("frame", "frame"), ("commit", "commit")):
        setattr(state, field, [request.name for request in WlSurface.requests].index(name))
    state.display, state.wayland = address(display._ptr), display.get_fd()
    compositor.no_events = protocols.EventQueue(display)
    state.no_events = address(compositor.no_events._ptr)
    pump.flush = compositor.flush


@dataclass
class _Shown:
    cookie: int
    image: Image
    copy: tuple[memoryview, memoryview] | None


class Lane:
    """One connector's struct lane, ``values``. ``resume()`` is called where C can't go on."""

    ROOM = 16
    """So many framebuffers."""

    def __init__(self, pump: Pump, resume: Callable[[], None]) -> None:
        self._pump = pump
        self.resume = resume
        self.values = ffi.new("struct lane *")
        self._pictures: list[_Shown] = []
        self._views: list[Any] = []

    @property
    def lent(self) -> bool:
        return bool(self.values.lent)

    def lend(
        self,
        pages: tuple[Any, Any, Any],
        ports: tuple[int, int],
        surface: tuple[Any, Any],
        sample_at: float,
        journal: dict[str, Any],
        pictures: list[tuple[int, Image, tuple[memoryview, memoryview] | None]],
    ) -> None:
        """``pages``: ring, event page and journal as memoryviews, which stay as they are until reclaim();
        ``ports``: the local ones of requests and events; ``surface``: its pointer, and the arguments of
        damage_buffer; ``journal``: the fields of struct journal; ``pictures``: cookie, image, and where it
        is copied to and from, which are released by reclaim(); the first one is shown now.

        Nothing is lent if there are too many lanes, or if it raises."""
        self._pictures = [_Shown(*picture) for picture in pictures]
        lane = self.values
        lane.request_port, lane.event_port = ports
        lane.surface, lane.damage = (address(pointer) for pointer in surface)
        lane.sample_at, lane.patience = sample_at, limits.HIDDEN
        lane.values = journal
        lane.requests_consumed = journal["answered"]
        lane.copied = 0
        lane.answered_at = lane.committed = float("-inf")
        try:
            lane.ring, lane.events, lane.record = (self._view(page) for page in pages)
            self._describe_pictures()
            if lib.lane_lend(self._pump.state, self.values):
                self._pump.lanes[self.values] = self.resume
                self._pump.ends = True  # the next turn waits in C
        finally:
            if not self.lent:
                self._let_go()

    def _describe_pictures(self) -> None:
        lane = self.values
        lane.pictures, lane.shown = len(self._pictures), 0
        for index, picture in enumerate(self._pictures):
            image, entry = picture.image, lane.picture[index]
            image.lane = self
            entry.buffer = address(image.buffer._ptr)
            entry.cookie, entry.attach = picture.cookie, address(image.attach)
            entry.dmabuf, entry.busy = image.dmabuf, image.busy
            entry.copy_to = entry.copy_from = ffi.NULL
            if picture.copy:
                entry.copy_to, entry.copy_from = (self._view(view) for view in picture.copy)
                entry.copy_length = len(picture.copy[0])

    def _view(self, memory: Any) -> Any:
        view = ffi.from_buffer("char[]", memory)
        self._views.append(view)
        return view

    def reclaim(self) -> bool:
        """Take it back; whether it was lent. ``values`` are what C has made of them."""
        if not self.lent:
            return False
        lib.lane_reclaim(self._pump.state, self.values)
        self._pump.lanes.pop(self.values, None)
        for index, picture in enumerate(self._pictures):
            picture.image.busy = bool(self.values.picture[index].busy)
        self._let_go()
        return True

    def _let_go(self) -> None:
        for view in self._views:
            ffi.release(view)
        self._views.clear()
        for picture in self._pictures:
            picture.image.lane = None
            for memory in picture.copy or ():
                memory.release()

    @property
    def shown(self) -> Image:
        """What was committed last."""
        return self._pictures[int(self.values.shown)].image

    def flight(self, done: Callable[[bool], None]) -> Flight:
        """The flip that C hasn't answered."""
        lane = self.values
        replaced = self._pictures[lane.replaced].image if lane.replaced >= 0 else None
        callback = int(ffi.cast("uintptr_t", lane.callback))
        return Flight(done, replaced, lane.committed, bool(lane.drawn), callback)
