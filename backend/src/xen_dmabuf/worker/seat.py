# SPDX-License-Identifier: MIT
"""The seats of a compositor: what is done in a window goes to its connector's input devices, and to
nobody else's.

Keys go to the window that the compositor named last by `enter`, and, unless configuration says
otherwise, only once that window was clicked or touched since it was opened: one that comes takes the
keyboard in most compositors, and would hear what is typed for another. What was pressed is released
when the window loses the focus or goes, or the compositor does. A compositor is as little trusted as a
DomU: events of dead surfaces and of fingers that are not there do nothing. Asyncio thread only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from .protocols import Proxy, WlKeyboard, WlPointer, WlSeat, WlTouch, forgive_dead_objects

if TYPE_CHECKING:
    from .input import Input, Screen

MOST_SEATS = 16
_MOST_FINGERS = 256
"""Of one seat; a DomU's devices have fewer contacts."""
_CLICK = 120
_AXIS_OF_A_CLICK = 10.0
"""Of what a device reports that has no clicks: a finger on a touch pad."""
_FRAMES_SINCE, _RELEASE_SINCE = 5, 3
_VERTICAL = 0

forgive_dead_objects(WlPointer, WlKeyboard, WlTouch)


class Window(Protocol):
    """What a seat needs to know of a window."""

    @property
    def surface(self) -> Proxy:
        """The wl_surface that gets input, None once it is destroyed."""

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of the connector."""

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the surface is in the connector, in pixels; it may be outside."""


class _Place:
    """A window and who hears it. ``clicked``: since it was opened."""

    def __init__(self, window: Window, screen: Screen) -> None:
        self.window = window
        self.screen = screen
        self.clicked = screen.keyboard_at_once

    def at(self, place: tuple[float, float]) -> tuple[float, float]:
        return self.window.locate(*place)


class Seats:
    """All seats of one connection, and the windows that hear them."""

    def __init__(self) -> None:
        self._places: dict[Window, _Place] = {}
        self._seats: dict[int, _Seat] = {}

    # -- what a connector does

    def add(self, window: Window, screen: Screen) -> None:
        """A window was opened: from now on ``screen`` hears what is done in it."""
        self._places[window] = _Place(window, screen)

    def remove(self, window: Window) -> None:
        """It is about to be destroyed: what is pressed in it is released. Fine if it is unknown."""
        place = self._places.pop(window, None)
        if place:
            for seat in self._seats.values():
                seat.forget(place)

    # -- what the compositor does

    def bind(self, registry: Proxy, name: int, version: int) -> None:
        """A seat came; more than MOST_SEATS are ignored."""
        if len(self._seats) < MOST_SEATS:
            version = min(version, _HIGHEST, WlSeat.version)
            self._seats[name] = _Seat(self, registry.bind(name, WlSeat, version), version)

    def unbind(self, name: int) -> None:
        """A global went; fine if it was none of these."""
        seat = self._seats.pop(name, None)
        if seat:
            seat.close()

    def close(self) -> None:
        """The connection ends: release everything; idempotent."""
        for name in list(self._seats):
            self.unbind(name)
        self._places.clear()

    def place_of(self, surface: Proxy) -> _Place | None:
        """None for a surface that is gone, or no window's."""
        if surface is None:
            return None
        return next((place for place in self._places.values() if place.window.surface is surface), None)


_HIGHEST = 8
"""wl_seat: the last version that has events for us, axis_value120."""


class _Seat:
    """A wl_seat with what it has of pointer, keyboard and touch screen."""

    def __init__(self, seats: Seats, proxy: Proxy, version: int) -> None:
        self._seats = seats
        self._proxy = proxy
        self._version = version
        self._parts: dict[int, _Pointer | _Keyboard | _Touch] = {}
        proxy.dispatcher["capabilities"] = self._on_capabilities

    def _on_capabilities(self, proxy: Proxy, capabilities: int) -> None:
        for capability, make, kind in (
            (WlSeat.capability.pointer.value, proxy.get_pointer, _Pointer),
            (WlSeat.capability.keyboard.value, proxy.get_keyboard, _Keyboard),
            (WlSeat.capability.touch.value, proxy.get_touch, _Touch),
        ):
            part = self._parts.get(capability)
            if capabilities & capability and part is None:
                self._parts[capability] = kind(self._seats, make(), self._version)
            elif not capabilities & capability and part is not None:
                del self._parts[capability]
                part.close()

    def forget(self, place: _Place) -> None:
        for part in self._parts.values():
            part.forget(place)

    def close(self) -> None:
        for part in self._parts.values():
            part.close()
        self._parts.clear()
        _destroy(self._proxy, self._version, since=5)


class _Part:
    """Pointer, keyboard or touch screen of a seat; an owner of what is pressed (input.py)."""

    def __init__(self, seats: Seats, proxy: Proxy, version: int) -> None:
        self._seats = seats
        self._proxy = proxy
        self._version = version

    def forget(self, place: _Place) -> None:
        """A window goes: the compositor's `leave` for it may never come."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what is pressed and drop the proxy."""
        _destroy(self._proxy, self._version, since=_RELEASE_SINCE)


class _Focus(_Part):
    """What has one window at a time."""

    def __init__(self, seats: Seats, proxy: Proxy, version: int) -> None:
        super().__init__(seats, proxy, version)
        self._focus: _Place | None = None

    def _move(self, place: _Place | None) -> None:
        """The focus is in another window, or in none of these: what was pressed in the last is released."""
        last, self._focus = self._focus, place
        if last:
            last.screen.release(self)

    def forget(self, place: _Place) -> None:
        if self._focus is place:
            self._move(None)

    def close(self) -> None:
        self._move(None)
        super().close()


class _Keyboard(_Focus):
    def __init__(self, seats: Seats, proxy: Proxy, version: int) -> None:
        super().__init__(seats, proxy, version)
        proxy.dispatcher["keymap"] = self._on_keymap
        proxy.dispatcher["enter"] = self._on_enter
        proxy.dispatcher["leave"] = self._on_leave
        proxy.dispatcher["key"] = self._on_key

    def _on_keymap(self, _proxy: Proxy, _format: int, fd: int, _size: int) -> None:
        os.close(fd)  # never mapped: the DomU has a layout of its own

    def _on_enter(self, _proxy: Proxy, _serial: int, surface: Proxy, _keys: object) -> None:
        # the keys that are pressed are not forwarded: they would tell what was typed elsewhere
        self._move(self._seats.place_of(surface))

    def _on_leave(self, _proxy: Proxy, _serial: int, _surface: Proxy) -> None:
        self._move(None)

    def _on_key(self, _proxy: Proxy, _serial: int, _time: int, code: int, state: int) -> None:
        place = self._focus
        device = place.screen.keyboard if place else None
        if place is None or device is None:
            return
        pressed = state == WlKeyboard.key_state.pressed.value
        if pressed and not place.clicked:
            device.withheld += 1
            return
        if pressed or state == WlKeyboard.key_state.released.value:
            device.key(self, code, pressed)


class _Pointer(_Focus):
    def __init__(self, seats: Seats, proxy: Proxy, version: int) -> None:
        super().__init__(seats, proxy, version)
        self._framed = version >= _FRAMES_SINCE
        self._serial = 0
        self._cursor_hidden = False
        self._at = self._sent = (0.0, 0.0)
        self._came = False
        self._moved = False
        self._axis = 0.0
        self._steps = 0
        self._rest = 0
        for name in ("enter", "leave", "motion", "button", "axis", "axis_discrete", "axis_value120", "frame"):
            if name in {event.name for event in WlPointer.events}:
                proxy.dispatcher[name] = getattr(self, f"_on_{name}")

    def _move(self, place: _Place | None) -> None:
        super()._move(place)
        self._moved = self._cursor_hidden = False
        self._axis, self._steps, self._rest = 0.0, 0, 0

    def _on_enter(self, _proxy: Proxy, serial: int, surface: Proxy, x: float, y: float) -> None:
        self._move(self._seats.place_of(surface))
        self._serial, self._at = serial, (x, y)
        self._came = self._moved = self._focus is not None
        self._event()

    def _on_leave(self, _proxy: Proxy, _serial: int, _surface: Proxy) -> None:
        self._move(None)

    def _on_motion(self, _proxy: Proxy, _time: int, x: float, y: float) -> None:
        self._at, self._moved = (x, y), True
        self._event()

    def _on_button(self, _proxy: Proxy, _serial: int, _time: int, code: int, state: int) -> None:
        self._send()  # where it is pressed comes first
        place = self._focus
        if place is None:
            return
        pressed = state == WlPointer.button_state.pressed.value
        place.clicked |= pressed
        device = place.screen.pointer
        if device:
            device.key(self, code, pressed)

    def _on_axis(self, _proxy: Proxy, _time: int, axis: int, value: float) -> None:
        if axis == _VERTICAL:
            self._axis += value
            self._event()

    def _on_axis_discrete(self, _proxy: Proxy, axis: int, clicks: int) -> None:
        self._on_axis_value120(_proxy, axis, clicks * _CLICK)

    def _on_axis_value120(self, _proxy: Proxy, axis: int, value: int) -> None:
        if axis == _VERTICAL:
            self._steps += value

    def _on_frame(self, _proxy: Proxy) -> None:
        self._send()

    def _event(self) -> None:
        if not self._framed:
            self._send()

    def _send(self) -> None:
        """What a frame has of motion and wheel, as one event."""
        steps = self._steps or round(self._axis * _CLICK / _AXIS_OF_A_CLICK)
        self._axis, self._steps = 0.0, 0
        place = self._focus
        device = place.screen.pointer if place else None
        if place is None or device is None or not (self._moved or steps):
            return
        self._hide_cursor()
        clicks = int((self._rest + steps) / _CLICK)
        self._rest += steps - clicks * _CLICK
        at = place.at(self._at)
        device.point(at, None if self._came else self._sent, place.window.size, clicks)
        self._sent, self._came, self._moved = at, False, False

    def _hide_cursor(self) -> None:
        """The guest draws its own."""
        if not self._cursor_hidden:
            self._cursor_hidden = True
            self._proxy.set_cursor(self._serial, None, 0, 0)


class _Touch(_Part):
    def __init__(self, seats: Seats, proxy: Proxy, version: int) -> None:
        super().__init__(seats, proxy, version)
        self._fingers: dict[int, tuple[_Place, Input]] = {}
        for name in ("down", "up", "motion", "frame", "cancel"):
            proxy.dispatcher[name] = getattr(self, f"_on_{name}")

    def _on_down(
        self, _proxy: Proxy, _serial: int, _time: int, surface: Proxy, identifier: int, x: float, y: float
    ) -> None:
        place = self._seats.place_of(surface)
        self._lift(identifier)  # it was down already, or so it seemed
        if place is None or len(self._fingers) >= _MOST_FINGERS:
            return
        place.clicked = True
        device = place.screen.touch
        if device:
            self._fingers[identifier] = place, device
            device.touch_down(self, identifier, place.at((x, y)), place.window.size)

    def _on_motion(self, _proxy: Proxy, _time: int, identifier: int, x: float, y: float) -> None:
        if identifier in self._fingers:
            place, device = self._fingers[identifier]
            device.touch_move(self, identifier, place.at((x, y)), place.window.size)

    def _on_up(self, _proxy: Proxy, _serial: int, _time: int, identifier: int) -> None:
        self._lift(identifier)

    def _lift(self, identifier: int) -> None:
        """The frame that follows sends it."""
        finger = self._fingers.pop(identifier, None)
        if finger:
            finger[1].touch_up(self, identifier)
            if not any(device is finger[1] for _place, device in self._fingers.values()):
                finger[1].touch_frame()  # nobody will look for it at the frame

    def _on_frame(self, _proxy: Proxy) -> None:
        for device in {device for _place, device in self._fingers.values()}:
            device.touch_frame()

    def _on_cancel(self, _proxy: Proxy) -> None:
        for identifier in list(self._fingers):
            self._lift(identifier)

    def forget(self, place: _Place) -> None:
        touched = set()
        for identifier, (where, device) in list(self._fingers.items()):
            if where is place:
                self._lift(identifier)
                touched.add(device)
        for device in touched:
            device.touch_frame()

    def close(self) -> None:
        self._on_cancel(self._proxy)
        super().close()


def _destroy(proxy: Proxy, version: int, since: int) -> None:
    """``since``: the version from which on the interface has a request for it."""
    if proxy.destroyed:
        return
    if version >= since:
        proxy.release()
    else:
        proxy.destroy()
