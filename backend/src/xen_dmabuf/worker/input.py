# SPDX-License-Identifier: MIT
"""One input device (vkb) of a DomU: its page, its port, what is pressed; and all of a DomU.

Who presses something is an owner: a seat's keyboard, pointer or touch screen. A key that two owners
hold is released with the last one. Asyncio thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from ..kbdif import packets
from ..kbdif.page import InputPage
from ..kbdif.spec import InputSpec
from ..link.messages import HeldInput, InputStatus
from ..log import RateLimit, fields
from ..xen.gntdev import Gntdev
from .outbox import MOST_WAITING, Outbox, Touch
from .ports import Ports
from .state import StoredInput

log = logging.getLogger(__name__)

Size = tuple[int, int]
_KEYS = frozenset(packets.KEYS)


class Input:
    """Owns page and port from open() or adopt() to close()."""

    def __init__(self, number: int, spec: InputSpec, grants: Gntdev, ports: Ports) -> None:
        self.number = number
        self.spec = spec
        self.withheld = 0
        self._grants = grants
        self._ports = ports
        self._stack = contextlib.ExitStack()
        self._outbox: Outbox | None = None
        self._port = -1
        self._holders: dict[int, set[object]] = {}
        self._contacts: dict[tuple[object, int], int] = {}
        self._frame: list[Touch] = []
        self._position: tuple[int, int] | None = None
        self._quiet = RateLimit()

    # -- opening and closing

    def open(self) -> None:
        """Map the page and bind the port; OSError leaves nothing behind."""
        self._open(lambda: self._ports.bind(self.spec.port, self._flush))

    def adopt(self, stored: StoredInput) -> None:
        """Go on where another process ended: the frontend need not notice. OSError as open()."""

        def bind() -> int:
            try:
                self._ports.adopt(stored.port, self._flush)
            except OSError:  # the file has lost it: the DomU's port can be bound again
                return self._ports.bind(self.spec.port, self._flush)
            return stored.port

        self._open(bind)

    def _open(self, bind: Callable[[], int]) -> None:
        try:
            mapping = self._grants.map([self.spec.ref], writable=True)
            self._stack.callback(mapping.close)
            page = InputPage(mapping.map)
            self._stack.callback(page.close)
            self._port = bind()
            self._stack.callback(self._ports.unbind, self._port)
        except OSError:
            self._stack.close()
            raise
        # nobody knows what was pressed when a process died: the guest's kernel drops what is superfluous
        self._outbox = Outbox(page, filter(self._has, packets.KEYS), self._holders.__contains__)
        if self.spec.contacts:
            self._outbox.touch([(packets.MT_EV_UP, contact, 0, 0) for contact in range(self.spec.contacts)])
        self._flush()

    def close(self) -> None:
        """Release what is pressed and give page and port back; idempotent."""
        if self._outbox is None:
            return
        for owner in self._owners():
            self.release(owner)
        self._outbox = None
        self._stack.close()

    def _owners(self) -> set[object]:
        holding = {owner for holders in self._holders.values() for owner in holders}
        return holding | {owner for owner, _identifier in self._contacts}

    # -- keys and buttons

    def _has(self, code: int) -> bool:
        """Whether the guest's devices take this key: mainline's frontend follows a NULL pointer to its
        keyboard if it has none, and takes a great number for a bit beyond its table."""
        if code in packets.POINTER_BUTTONS:
            return bool(self.spec.pointer)
        return code in _KEYS and bool(self.spec.keyboard)

    def key(self, owner: object, code: int, pressed: bool) -> None:
        """``code``: of linux/input-event-codes.h. What is pressed or released already is no event."""
        outbox, holders = self._outbox, self._holders.get(code)
        if outbox is None:
            return
        if not pressed:
            self._let_go(owner, code)
        elif holders:
            holders.add(owner)
        elif not self._has(code):
            outbox.dropped += 1
        elif outbox.press(code):
            self._holders[code] = {owner}
        self._flush()

    def _let_go(self, owner: object, code: int) -> None:
        holders = self._holders.get(code)
        if not holders or owner not in holders:
            return
        holders.discard(owner)
        if not holders and self._outbox:
            del self._holders[code]
            self._outbox.release(code)

    def release(self, owner: object) -> None:
        """All keys, buttons and touches of an owner."""
        for code in [code for code, holders in self._holders.items() if owner in holders]:
            self._let_go(owner, code)
        for touching, identifier in list(self._contacts):
            if touching is owner:
                self.touch_up(owner, identifier)
        self.touch_frame()
        self._flush()

    # -- the pointer

    def point(self, at: tuple[float, float], before: tuple[float, float] | None, size: Size, clicks: int) -> None:
        """The pointer is ``at``, in pixels of the connector of ``size``; ``before``: where it was, None if
        it has just come. ``clicks`` of the wheel, towards the user."""
        if self._outbox is None or not self.spec.pointer:
            return
        units = (self.spec.width, self.spec.height)
        absolute = all(units)
        now = _scaled(at, size, units if absolute else size)
        if absolute:
            x, y = now
            moved = now != self._position
        else:
            last = _scaled(before, size, size) if before else now
            x, y = now[0] - last[0], now[1] - last[1]
            moved = (x, y) != (0, 0)
        if (moved or clicks) and self._outbox.move(absolute, x, y, clicks):
            self._position = now
        self._flush()

    # -- touches

    def touch_down(self, owner: object, identifier: int, at: tuple[float, float], size: Size) -> None:
        """A finger came; touch_frame() sends it. More than the device has contacts are dropped."""
        if self._outbox is None or (owner, identifier) in self._contacts:
            return
        free = set(range(self.spec.contacts)) - set(self._contacts.values())
        if not free:
            self._outbox.dropped += 1
        elif self._outbox.may_press():
            contact = self._contacts[owner, identifier] = min(free)
            self._add(packets.MT_EV_DOWN, contact, self._touched(at, size))

    def touch_move(self, owner: object, identifier: int, at: tuple[float, float], size: Size) -> None:
        contact = self._contacts.get((owner, identifier))
        if contact is not None:
            self._add(packets.MT_EV_MOTION, contact, self._touched(at, size))

    def touch_up(self, owner: object, identifier: int) -> None:
        contact = self._contacts.pop((owner, identifier), None)
        if contact is not None:
            self._add(packets.MT_EV_UP, contact, (0, 0))

    def touch_frame(self) -> None:
        """What fingers did since the last one happened at once. One for all owners: a contact that one
        has lifted may be another's next."""
        touches, self._frame = self._frame, []
        if touches and self._outbox:
            self._outbox.touch(touches)
            self._flush()

    def _touched(self, at: tuple[float, float], size: Size) -> tuple[int, int]:
        return _scaled(at, size, (self.spec.touch_width, self.spec.touch_height))

    def _add(self, event: int, contact: int, at: tuple[int, int]) -> None:
        self._frame.append((event, contact, *at))
        if len(self._frame) >= MOST_WAITING:
            self.touch_frame()

    # -- the page

    def _flush(self) -> None:
        """Also when the frontend notifies: it has read."""
        if self._outbox is None or not self._outbox.flush():
            return
        try:
            self._ports.notify(self._port)
        except OSError as error:
            if self._quiet.allow(asyncio.get_running_loop().time()):
                log.warning(
                    "frontend of an input device not notified",
                    extra=fields(domid=self._grants.domid, device=self.number, reason=error),
                )

    # -- what others hear

    def held(self) -> HeldInput:
        return HeldInput(self.number, self.spec)

    def stored(self) -> StoredInput:
        return StoredInput(self.number, self._port, self.spec)

    def status(self) -> InputStatus:
        outbox, spec = self._outbox, self.spec
        sent, coalesced, dropped, waiting = (
            (outbox.sent, outbox.coalesced, outbox.dropped, outbox.waiting) if outbox else (0, 0, 0, 0)
        )
        return InputStatus(
            *(spec.keyboard, spec.pointer, spec.touch, len(self._holders), len(self._contacts)),
            *(sent, coalesced, dropped, waiting, self.withheld),
        )


def _scaled(at: tuple[float, float], size: Size, units: Size) -> tuple[int, int]:
    """Pixels of a connector in units of a device, within it."""
    pairs = zip(at, size, units, strict=True)
    x, y = (int(min(max(place * unit / max(pixels, 1), 0), unit - 1)) for place, pixels, unit in pairs)
    return x, y


class Screen:
    """What hears what is done in one connector's window: it is looked up anew each time, as devices come
    and go. ``keyboard_at_once``: without a click before."""

    def __init__(self, inputs: Inputs, name: str) -> None:
        self._inputs = inputs
        self._name = name
        self.keyboard_at_once = inputs.keyboard_at_once(name)

    @property
    def keyboard(self) -> Input | None:
        return self._first(lambda spec: spec.keyboard)

    @property
    def pointer(self) -> Input | None:
        return self._first(lambda spec: spec.pointer)

    @property
    def touch(self) -> Input | None:
        return self._first(lambda spec: spec.touch)

    def _first(self, role: Callable[[InputSpec], str]) -> Input | None:
        return next((device for device in self._inputs if role(device.spec) == self._name), None)

    def release(self, owner: object) -> None:
        """All that ``owner`` has pressed in the DomU."""
        for device in self._inputs:
            device.release(owner)


class Inputs:
    """The input devices of a DomU. ``keyboard_at_once`` is asked for a connector, by its name."""

    def __init__(self, keyboard_at_once: Callable[[str], bool] = lambda _name: False) -> None:
        self.keyboard_at_once = keyboard_at_once
        self._devices: dict[int, Input] = {}

    def __iter__(self) -> Iterator[Input]:
        return iter(self._devices.values())

    def at(self, name: str) -> Screen:
        """Of the connector with this name."""
        return Screen(self, name)

    def add(self, device: Input) -> None:
        """One that is open."""
        self._devices[device.number] = device

    def close(self, number: int) -> None:
        """Fine if there is none."""
        device = self._devices.pop(number, None)
        if device:
            device.close()

    def close_all(self) -> None:
        for number in list(self._devices):
            self.close(number)
